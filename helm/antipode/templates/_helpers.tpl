{{/* Names, labels and what is made from the slice. Nothing here renders an object. */}}

{{- define "antipode.labels" -}}
app.kubernetes.io/name: antipode
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.region }}
gke.io/region: {{ . }}
{{- end }}
{{- end }}

{{- define "antipode.selector" -}}
app.kubernetes.io/name: antipode
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "antipode.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What GKE calls the slice: accelerator, topology, chips of a host. */}}
{{- define "antipode.slice" -}}
{{- $known := dict
  "v6e:1x1" (dict "accelerator" "tpu-v6e-slice" "chips" 1)
  "v6e:2x2" (dict "accelerator" "tpu-v6e-slice" "chips" 4)
  "v6e:2x4" (dict "accelerator" "tpu-v6e-slice" "chips" 8)
  "v5e:1x1" (dict "accelerator" "tpu-v5-lite-podslice" "chips" 1)
  "v5e:2x2" (dict "accelerator" "tpu-v5-lite-podslice" "chips" 4)
  "v5e:2x4" (dict "accelerator" "tpu-v5-lite-podslice" "chips" 8)
  "v5p:2x2x1" (dict "accelerator" "tpu-v5p-slice" "chips" 4)
  "v7x:2x2x1" (dict "accelerator" "tpu7x" "chips" 4) -}}
{{- $slice := index $known .Values.slice | default dict -}}
{{- if $slice }}
{{- toYaml (merge $slice (dict "topology" (last (splitList ":" .Values.slice)) "generation" (first (splitList ":" .Values.slice)))) }}
{{- end }}
{{- end }}

{{- define "antipode.isTpu" -}}
{{- if ne .Values.slice "cpu" }}true{{ end }}
{{- end }}

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
  {{ $name }}: {{ $version | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "antipode.picker" -}}
{{- index .root.Values.picker.existing .pool | default (printf "%s-%s-picker" .root.Release.Name .pool) }}
{{- end }}
