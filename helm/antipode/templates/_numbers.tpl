{{/* Numbers as text. Helm gives a number of a values file as a float, and one of --set as an integer. Nothing here renders an object. */}}

{{/* A value as text. A whole number has no exponent, which a float gets from a million on. */}}
{{- define "antipode.text" -}}
{{- if and (kindIs "float64" .) (eq (toString (floor .)) (toString .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}
