{{- define "pyrsia-operator.selector" -}}
app.kubernetes.io/name: pyrsia-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pyrsia-operator.labels" -}}
{{ include "pyrsia-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
