{{/* What a schema cannot say: values that are each fine but make no sense together. */}}
{{- define "kvmoor.validate" -}}
{{- $ingress := .Values.apiServer.ingress }}
{{- if and $ingress.enabled (not $ingress.host) }}
{{- fail "apiServer.ingress.host is missing: an Ingress without a host would answer for all names" }}
{{- end }}
{{- if and $ingress.tls.enabled (not $ingress.enabled) }}
{{- fail "apiServer.ingress.tls is on but apiServer.ingress.enabled is not: there is nothing that could serve TLS" }}
{{- end }}
{{- if and $ingress.tls.selfSigned $ingress.tls.secretName }}
{{- fail "apiServer.ingress.tls: give either secretName, a certificate of yours, or selfSigned, one that the chart makes" }}
{{- end }}
{{- if and $ingress.enabled $ingress.tls.enabled (not $ingress.tls.selfSigned) (not $ingress.tls.secretName) (not $ingress.annotations) }}
{{- fail "apiServer.ingress.tls needs a certificate: secretName, selfSigned, or annotations for what issues one into the Secret kvmoor-api-server-tls" }}
{{- end }}
{{- if and .Values.apiServer.service.nodePort (eq .Values.apiServer.service.type "ClusterIP") }}
{{- fail "apiServer.service.nodePort needs apiServer.service.type NodePort or LoadBalancer" }}
{{- end }}
{{- range $name, $image := .Values.images }}
{{- if $image.enabled }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$" $name) }}
{{- fail (printf "images: %q cannot be the name of an image: at most 63 of a-z, 0-9, - and ." $name) }}
{{- end }}
{{- if or (and $image.builtIn $image.url) (and $image.uploaded (or $image.builtIn $image.url)) }}
{{- fail (printf "images.%s: give one of url, builtIn: true and uploaded: true" $name) }}
{{- end }}
{{- if not (or $image.builtIn $image.uploaded $image.url) }}
{{- fail (printf "images.%s: where it comes from is missing: url and sha256, builtIn: true, or uploaded: true and sha256" $name) }}
{{- end }}
{{- if and (or $image.url $image.uploaded) (not $image.sha256) }}
{{- fail (printf "images.%s: sha256 is missing: what was downloaded could be anything" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $class := .Values.classes }}
{{- if $class.enabled }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$" $name) }}
{{- fail (printf "classes: %q cannot be the name of a class: at most 63 of a-z, 0-9, - and ." $name) }}
{{- end }}
{{- if not (and $class.cpu $class.memory) }}
{{- fail (printf "classes.%s: cpu or memory is missing" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) }}
{{- fail "metrics.serviceMonitor is on but metrics.enabled is not: there would be nothing to scrape" }}
{{- end }}
{{- if and (not .Values.secrets.create) .Values.admin.password }}
{{- fail "admin.password is set but secrets.create is false: put the password into the Secret kvmoor-admin yourself" }}
{{- end }}
{{- if hasPrefix "kvmoor-user-" .Release.Namespace }}
{{- fail "namespaces that begin with kvmoor-user- belong to users; install into another, such as kvmoor-system" }}
{{- end }}
{{- if not (hasPrefix "/" .Values.nodeController.libvirt.socketDirectory) }}
{{- fail "nodeController.libvirt.socketDirectory must be an absolute path, such as /run/libvirt" }}
{{- end }}
{{- with .Values.nodeController.libvirt }}
{{- if .bundled.enabled }}
{{- if ne .uri "qemu:///system" }}
{{- fail (printf "nodeController.libvirt: bundled is on, but uri names another libvirt, %s: leave it at qemu:///system" .uri) }}
{{- end }}
{{- if ne .socketDirectory "/run/libvirt" }}
{{- fail (printf "nodeController.libvirt: bundled is on, which has its sockets in /run/libvirt, but socketDirectory is %s" .socketDirectory) }}
{{- end }}
{{- if not (has .serialLogDirectory (list nil "" "/var/log/libvirt/qemu")) }}
{{- fail (printf "nodeController.libvirt: bundled is on, which logs to /var/log/libvirt/qemu, but serialLogDirectory is %s" .serialLogDirectory) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
