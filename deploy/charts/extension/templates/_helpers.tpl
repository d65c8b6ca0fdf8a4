{{- define "extension.labels" -}}
app.kubernetes.io/name: flux-extension
app.kubernetes.io/component: flux-controllers
app.kubernetes.io/part-of: headwater
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "extension.selector" -}}
app.kubernetes.io/name: flux-extension
app.kubernetes.io/component: flux-controllers
{{- end }}
{{- define "extension.loops" -}}
{{- $loops := list "fluxconfig" -}}
{{- range $name := list "source" "kustomize" "helm" -}}
{{- if (index $.Values (printf "%s-controller" $name)).enabled -}}
{{- $loops = append $loops $name -}}
{{- end -}}
{{- end -}}
{{- if (index $.Values "source-watcher").enabled -}}
{{- $loops = append $loops "source-watcher" -}}
{{- end -}}
{{ join "," $loops }}
{{- end }}
