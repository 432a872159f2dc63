{{/*
The objects of files/GLOB, with the chart's labels, for this namespace. The files are plain YAML, so that whoever does
without Helm can apply them, and they stand once. Takes root, glob and, optionally, annotations.
*/}}
{{- define "kvmoor.documents" -}}
{{- $root := .root -}}
{{- $annotations := .annotations | default dict -}}
{{- $labels := include "kvmoor.labels" $root | fromYaml -}}
{{- range $path, $bytes := $root.Files.Glob .glob }}
{{- range $text := regexSplit "(?m)^---\\s*$" (toString $bytes) -1 }}
{{- $object := $text | replace "kvmoor-system" $root.Release.Namespace | fromYaml }}
{{- if hasKey $object "Error" }}
{{- fail (printf "%s cannot be read: %s" $path $object.Error) }}
{{- end }}
{{- if $object }}
{{- $metadata := $object.metadata }}
{{- $_ := set $metadata "labels" (merge (dict) ($metadata.labels | default dict) $labels) }}
{{- if $annotations }}
{{- $_ := set $metadata "annotations" (merge (dict) ($metadata.annotations | default dict) $annotations) }}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
