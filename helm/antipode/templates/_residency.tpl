{{/* What leaves the region. Nothing here renders an object. */}}

{{/* Whether (dict "root" $ "what" "pools") is exported to the fleet. With residency region nothing is. */}}
{{- define "antipode.exports" -}}
{{- if and (index .root.Values .what).export (eq .root.Values.residency "any") }}true{{ end }}
{{- end }}
