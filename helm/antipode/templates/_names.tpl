{{/* Names of objects, images and pull secrets. Nothing here renders an object. */}}

{{- define "antipode.serviceAccount" -}}
{{ .Values.serviceAccount.name | default .Release.Name }}
{{- end }}

{{/* A ComputeClass belongs to the cluster, so the name of a class that the chart makes has the namespace in it. */}}
{{- define "antipode.computeClass" -}}
{{- if .Values.computeClass.name }}
{{- .Values.computeClass.name }}
{{- else if .Values.computeClass.create }}
{{- $name := printf "%s-%s" .Release.Namespace .Release.Name | trimPrefix "-" }}
{{- if gt (len $name) 63 }}{{ $name | trunc 54 }}-{{ $name | sha256sum | trunc 8 }}{{ else }}{{ $name }}{{ end }}
{{- end }}
{{- end }}

{{- define "antipode.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}{{ with $image.digest }}@{{ . }}{{ else }}:{{ $image.tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "antipode.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "antipode.picker" -}}
{{- index .root.Values.picker.existing .pool | default (printf "%s-%s-picker" .root.Release.Name .pool) }}
{{- end }}

{{/* The pools that get a picker here, as a JSON array. */}}
{{- define "antipode.pickers" -}}
{{- $wanted := list }}
{{- range $pool := list "http" "grpc" }}
{{- if and $.Values.picker.enabled (index $.Values.pools $pool).enabled (not (index $.Values.picker.existing $pool)) }}
{{- $wanted = append $wanted $pool }}
{{- end }}
{{- end }}
{{- $wanted | toJson }}
{{- end }}
