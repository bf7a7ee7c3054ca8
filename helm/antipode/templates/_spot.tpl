{{/* Spot nodes, which go soon after their notice. Nothing here renders an object. */}}

{{/* A list of requirements of a node, as JSON, of which each has key, operator and values: whether one asks for spot nodes. */}}
{{- define "antipode.asksForSpot" -}}
{{- range . }}
{{- $values := .values | default list }}
{{- if and (has .key (list "cloud.google.com/gke-spot" "cloud.google.com/gke-preemptible")) (or (eq .operator "Exists") (and (eq .operator "In") (has "true" $values))) }}true{{ end }}
{{- if and (eq .key "cloud.google.com/gke-provisioning") (eq .operator "In") (or (has "spot" $values) (has "preemptible" $values)) }}true{{ end }}
{{- end }}
{{- end }}

{{/* Whether pods may run on spot nodes: by the class that the chart makes, a selector, an affinity or a toleration. */}}
{{- define "antipode.maySpot" -}}
{{- $v := .Values }}
{{- $asked := list }}
{{- range $key, $value := $v.nodeSelector }}
{{- $asked = append $asked (dict "key" $key "operator" "In" "values" (list $value)) }}
{{- end }}
{{- $node := $v.affinity.nodeAffinity | default dict }}
{{- range (($node.requiredDuringSchedulingIgnoredDuringExecution | default dict).nodeSelectorTerms | default list) }}
{{- $asked = concat $asked (.matchExpressions | default list) }}
{{- end }}
{{- range ($node.preferredDuringSchedulingIgnoredDuringExecution | default list) }}
{{- $asked = concat $asked ((.preference | default dict).matchExpressions | default list) }}
{{- end }}
{{- range $v.tolerations }}
{{- $values := list (.value | default "") }}
{{- $asked = append $asked (dict "key" (.key | default "cloud.google.com/gke-spot") "operator" (ternary "Exists" "In" (eq (.operator | default "Equal") "Exists")) "values" $values) }}
{{- end }}
{{- if and $v.computeClass.create (has "spot" $v.computeClass.priorities) }}true{{ end }}
{{- include "antipode.asksForSpot" $asked }}
{{- end }}

{{- define "antipode.validate.spot" -}}
{{- $v := .Values -}}
{{- $end := add $v.server.lameDuckSeconds $v.server.drainTimeoutSeconds }}
{{- if include "antipode.maySpot" . }}
{{- if and $v.computeClass.create (gt (int $v.spotSeconds) 105) }}
{{- fail (printf "spotSeconds is %d, but a class gives a node at most 120 seconds, of which 15 are for system pods; set spotSeconds to 105 or less." (int $v.spotSeconds)) }}
{{- end }}
{{- if gt (int $end) (int $v.spotSeconds) }}
{{- fail (printf "pods may run on spot nodes, which give them %d seconds to end (spotSeconds), but a drain may take %d seconds (server.lameDuckSeconds + server.drainTimeoutSeconds), so streams would be cut; lower them, or extend the time in the node pool's system configuration and set spotSeconds to it." (int $v.spotSeconds) (int $end)) }}
{{- end }}
{{- end }}
{{- end }}
