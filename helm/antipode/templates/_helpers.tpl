{{/* Names, labels and values derived from the slice. Nothing here renders an object. */}}

{{- define "antipode.labels" -}}
app.kubernetes.io/name: antipode
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.region }}
gke.io/region: {{ . | quote }}
{{- end }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

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

{{- define "antipode.selector" -}}
app.kubernetes.io/name: antipode
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end }}

{{/*
The label by which an AutoscalingMetric finds the pods that serve: GKE takes no label name with a dot or slash
there. No selector of a workload has the label, because such selectors are immutable.
*/}}
{{- define "antipode.plainLabel" -}}
antipode-server: {{ .Release.Name | quote }}
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

{{/* The namespaces whose pods read metrics, as the peers of a network policy's rule. */}}
{{- define "antipode.collectors" -}}
from:
  - namespaceSelector:
      matchExpressions:
        - key: kubernetes.io/metadata.name
          operator: In
          values: [gmp-system, gke-gmp-system, gke-managed-system, kube-system]
{{- end }}

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

{{/* Selects the pods that serve. In a group of hosts only the leader serves; followers open no port. */}}
{{- define "antipode.leaders" -}}
{{ include "antipode.selector" . }}
{{- if gt (include "antipode.hosts" . | int) 1 }}
leaderworkerset.sigs.k8s.io/worker-index: "0"
{{- end }}
{{- end }}

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

{{/* terminationGracePeriodSeconds or, if that is 0, the lame duck plus the drain plus 15 seconds. */}}
{{- define "antipode.gracePeriod" -}}
{{ .Values.terminationGracePeriodSeconds | default (add .Values.server.lameDuckSeconds .Values.server.drainTimeoutSeconds 15) }}
{{- end }}

{{- define "antipode.isTpu" -}}
{{- if ne .Values.slice "cpu" }}true{{ end }}
{{- end }}

{{/* Whether (dict "root" $ "what" "pools") is exported to the fleet. With residency region nothing is. */}}
{{- define "antipode.exports" -}}
{{- if and (index .root.Values .what).export (eq .root.Values.residency "any") }}true{{ end }}
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
  {{ $name | quote }}: {{ $version | quote }}
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
