{{/* What follows from the slice: its hosts and chips, and whether there is a TPU at all. Nothing here renders an object. */}}

{{/* The slice's row of the table of slices, plus its values for GKE's node labels; empty for cpu. */}}
{{- define "antipode.slice" -}}
{{- with index (include "antipode.slices" . | fromYaml) .Values.slice }}
{{- $generation := first (splitList ":" $.Values.slice) }}
{{- $accelerator := index (dict
  "v5e" "tpu-v5-lite-podslice"
  "v5p" "tpu-v5p-slice"
  "v6e" "tpu-v6e-slice"
  "v7x" "tpu7x") $generation }}
{{- toYaml (merge (dict
  "generation" $generation
  "accelerator" $accelerator
  "topology" (last (splitList ":" $.Values.slice))) . (dict "hosts" 1)) }}
{{- end }}
{{- end }}

{{- define "antipode.hosts" -}}
{{ (include "antipode.slice" . | fromYaml).hosts | default 1 }}
{{- end }}

{{/* Chips of all hosts. */}}
{{- define "antipode.chips" -}}
{{- $slice := include "antipode.slice" . | fromYaml -}}
{{ mul $slice.chips $slice.hosts }}
{{- end }}

{{- define "antipode.isTpu" -}}
{{- if ne .Values.slice "cpu" }}true{{ end }}
{{- end }}
