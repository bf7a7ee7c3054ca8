{{/* ResourceClaims of chips and network interfaces: their names, and whether there are any. Nothing here renders an object. */}}

{{/* A claim template is immutable, so its name changes with its content. */}}
{{- define "antipode.claim" -}}
{{- if include "antipode.hasChipClaim" . }}
{{- $content := list .Values.dranet .Values.slice .Values.sliceAlternatives | toJson }}
{{- .Release.Name }}-slice-{{ $content | sha256sum | trunc 8 }}
{{- else }}
{{- .Release.Name }}-netdev-{{ .Values.dranet | toJson | sha256sum | trunc 8 }}
{{- end }}
{{- end }}

{{- define "antipode.hasChipClaim" -}}
{{- if and (include "antipode.isTpu" .) (eq .Values.sliceChips "claim") }}true{{ end }}
{{- end }}

{{/* The expression by which a claim takes only chips of the slice that is given, such as v6e:2x2. */}}
{{- define "antipode.chipsOfSlice" -}}
{{- $generations := dict "v5e" "v5litepod" "v5p" "v5p" "v6e" "v6e" "v7x" "tpu7x" -}}
device.attributes["tpu.google.com"].tpuGen == {{ index $generations (first (splitList ":" .)) | quote }}
{{- end }}

{{/* Whether pods have a claim: for chips, for network interfaces, or one for both. */}}
{{- define "antipode.hasClaim" -}}
{{- if or .Values.dranet.enabled (include "antipode.hasChipClaim" .) }}true{{ end }}
{{- end }}

{{/* The name of the claim in a pod. */}}
{{- define "antipode.claimInPod" -}}
{{ ternary "slice" "netdev" (ne (include "antipode.hasChipClaim" .) "") }}
{{- end }}
