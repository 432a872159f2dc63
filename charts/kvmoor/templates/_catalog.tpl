{{/* The catalog as the cluster controller reads it. What is only for people, such as where checksums come from, stays
     behind. */}}
{{- define "kvmoor.catalog" -}}
{{- $images := list }}
{{- range $name, $image := .Values.images }}
{{- if $image.enabled }}
{{- $spec := omit $image "enabled" "checksums" }}
{{- $images = append $images (dict "name" $name "spec" $spec) }}
{{- end }}
{{- end -}}
{{- $classes := list }}
{{- range $name, $class := .Values.classes }}
{{- if $class.enabled }}
{{- $classes = append $classes (dict "name" $name "spec" (omit $class "enabled")) }}
{{- end }}
{{- end -}}
images:
{{- range $images }}
- {{ toYaml . | nindent 2 | trim }}
{{- else }} []
{{- end }}
classes:
{{- range $classes }}
- {{ toYaml . | nindent 2 | trim }}
{{- else }} []
{{- end }}
{{- with .Values.defaultQuota }}
quota:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
