{{- define "type" -}}
{{- $type := . -}}
{{- if markdownShouldRenderType $type }}
## {{ $type.Name }}

{{ $type.Doc }}
{{- if $type.References }}

Used by{{ range $i, $r := $type.SortedReferences }}{{ if $i }},{{ end }} {{ markdownRenderTypeLink $r }}{{ end }}.
{{- end }}
{{- with index $type.Markers "kubebuilder:validation:XValidation" }}

Rules:
{{ range . }}
- {{ .Message }}
{{- end }}
{{- end }}
{{ if $type.EnumValues }}
Values:{{ range $i, $v := $type.EnumValues }}{{ if $i }},{{ end }} `{{ $v.Name }}`{{ end }}.
{{ else if $type.Members }}
| Field | Type | Description | Default | Bounds |
|---|---|---|---|---|
{{ range $type.Members -}}
| `{{ .Name }}` | {{ markdownRenderType .Type }} | {{ template "doc" . }} | {{ if not $type.GVK }}{{ with .Default }}`{{ . | replace "|" "\\|" }}`{{ end }} | {{ template "bounds" . }}{{ else }}|{{ end }} |
{{ end -}}
{{ end -}}
{{ end -}}
{{- end -}}

{{- define "doc" -}}
{{- if eq .Name "metadata" -}}
name, namespace, labels and annotations, as of every object.
{{- else -}}
{{ .Doc | replace "|" "\\|" | replace "{" "\\{" | replace "}" "\\}" | replace "\n" " " }}
{{- end -}}
{{- end -}}

{{- define "bounds" -}}
{{- $sep := "" -}}
{{- range .Validation -}}
{{- $bound := . | replace "\\{" "{" | replace "\\}" "}" -}}
{{- if hasPrefix "Required" $bound -}}{{ $sep }}required{{ $sep = ", " }}
{{- else if hasPrefix "Optional" $bound -}}
{{- else if contains "Pattern:" $bound -}}
{{- else if hasPrefix "Enum: [" $bound -}}
{{- else -}}{{ $sep }}{{ $bound | trim | replace "|" "\\|" }}{{ $sep = ", " }}
{{- end -}}
{{- end -}}
{{- range index .Markers "kubebuilder:validation:XValidation" -}}{{ $sep }}{{ .Message }}{{ $sep = ", " }}{{- end -}}
{{- end -}}
