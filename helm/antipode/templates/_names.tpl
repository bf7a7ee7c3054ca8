{{/* Names of objects, images and pull secrets. Nothing here renders an object. */}}

{{- define "antipode.serviceAccount" -}}
{{ .Values.serviceAccount.name | default .Release.Name }}
{{- end }}

{{/*
A name for what belongs to the cluster. The namespace and the release alone would be ambiguous: a-b of the namespace c
and b of the namespace c-a. No namespace or release has the slash that the hash is made of.
*/}}
{{- define "antipode.ofCluster" -}}
{{- $both := printf "%s/%s" .Release.Namespace .Release.Name }}
{{- $both | replace "/" "-" | trimPrefix "-" | trunc 54 }}-{{ $both | sha256sum | trunc 8 }}
{{- end }}

{{- define "antipode.computeClass" -}}
{{- if .Values.computeClass.name }}
{{- .Values.computeClass.name }}
{{- else if .Values.computeClass.create }}
{{- include "antipode.ofCluster" . }}
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
