{{/* Where the model lies, and the file that says which version is served. Nothing here renders an object. */}}

{{/* The folder of the model's versions, as the container sees it. */}}
{{- define "antipode.modelPath" -}}
{{- if .Values.model.bucket }}/models/{{ .Values.model.path }}{{ else }}{{ .Values.model.path }}{{ end }}
{{- end }}

{{- define "antipode.modelConfig" -}}
name: {{ .Values.model.name | quote }}
path: {{ include "antipode.modelPath" . | quote }}
version: {{ .Values.model.version | quote }}
swap_policy: {{ .Values.swap.policy }}
{{- with .Values.model.labels }}
labels: {{- range $name, $version := . }}
  {{ $name | quote }}: {{ $version | quote }}
{{- end }}
{{- end }}
{{- end }}
