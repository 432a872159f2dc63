{{/*
What every template needs: labels, image references, security contexts. Names do not depend on the release's name: a
cluster has one installation, and the programs and policies know each other by these names.
*/}}

{{- define "kvmoor.chart" -}}
{{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels of every object. */}}
{{- define "kvmoor.labels" -}}
app.kubernetes.io/name: kvmoor
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kvmoor
helm.sh/chart: {{ include "kvmoor.chart" . }}
{{- end }}

{{/* What selects the pods of a component. Takes root and component. */}}
{{- define "kvmoor.selector" -}}
app.kubernetes.io/name: kvmoor
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The reference of a component's image. Takes root and image. */}}
{{- define "kvmoor.image" -}}
{{- $registry := .root.Values.image.registry | default .image.registry -}}
{{- $tag := .image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- $name := ternary .image.repository (printf "%s/%s" $registry .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $name .image.digest }}
{{- else -}}
{{ printf "%s:%s" $name $tag }}
{{- end -}}
{{- end }}

{{- define "kvmoor.pullPolicy" -}}
{{ .image.pullPolicy | default .root.Values.image.pullPolicy }}
{{- end }}

{{/* The environment that all components share. */}}
{{- define "kvmoor.env" -}}
- name: KVMOOR_SYSTEM_NAMESPACE
  value: {{ .Release.Namespace | quote }}
- name: KVMOOR_LOG_FORMAT
  value: {{ .Values.log.format }}
- name: RUST_LOG
  value: {{ .Values.log.filter | quote }}
{{- end }}

{{/* Where metrics and health are served. Takes the address to listen on. */}}
{{- define "kvmoor.metricsEnv" -}}
- name: KVMOOR_METRICS_ADDRESS
  value: "{{ . }}:18446"
{{- end }}

{{/* The probes of a controller. Takes the path that says whether it can be counted on. */}}
{{- define "kvmoor.probes" -}}
startupProbe:
  httpGet: { path: /livez, port: metrics }
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: { path: {{ . }}, port: metrics }
  periodSeconds: 5
# Whether it answers at all. That libvirt or the Kubernetes API is away is no reason to start anew.
livenessProbe:
  httpGet: { path: /livez, port: metrics }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* A pod of which nothing reaches beyond the API: the Pod Security Standard "restricted". */}}
{{- define "kvmoor.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "kvmoor.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where pods go and do not go. Takes root, values and component. */}}
{{- define "kvmoor.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Replicas keep away from each other: by preference, since a cluster may have one node. */}}
{{- define "kvmoor.antiAffinity" -}}
{{- if .values.affinity -}}
{{ toYaml .values.affinity }}
{{- else -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
  - weight: 100
    podAffinityTerm:
      topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "kvmoor.selector" . | nindent 10 }}
{{- end -}}
{{- end }}

{{/* How the API server is spoken to. */}}
{{- define "kvmoor.apiScheme" -}}
{{ ternary "https" "http" (not (empty .Values.apiServer.tls.secretName)) }}
{{- end }}
