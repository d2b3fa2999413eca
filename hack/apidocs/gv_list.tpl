{{- define "gvList" -}}
# The API: pyrsia.io/v1alpha1

Written by `make generate` from the comments of [api/v1alpha1](../api/v1alpha1); `kubectl explain pyrsianode.spec` shows the same in a
cluster. Every field has a default that works, unless it is required. Examples are in [config/samples](../config/samples).
{{ range . }}
{{ range .SortedKinds }}- [{{ . }}](#{{ lower . }})
{{ end }}
{{- $gv := . }}
{{- range .SortedTypes }}{{ if .GVK }}{{ template "type" . }}{{ end }}{{ end }}
{{- range .SortedTypes }}{{ if not .GVK }}{{ template "type" . }}{{ end }}{{ end }}
{{- end }}
{{- end -}}
