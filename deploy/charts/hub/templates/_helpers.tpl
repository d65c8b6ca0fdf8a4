{{- define "hub.labels" -}}
{{ include "hub.selector" . }}
app.kubernetes.io/component: hub
app.kubernetes.io/part-of: headwater
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "hub.selector" -}}
app.kubernetes.io/name: headwater-hub
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "hub.service" -}}
{{ .Release.Name }}.{{ .Release.Namespace }}.svc
{{- end }}
{{- define "hub.url" -}}
{{- if .Values.externalURL -}}
{{ .Values.externalURL | trimSuffix "/" }}
{{- else -}}
https://{{ include "hub.service" . }}{{ if ne (int .Values.service.port) 443 }}:{{ int .Values.service.port }}{{ end }}
{{- end -}}
{{- end }}
