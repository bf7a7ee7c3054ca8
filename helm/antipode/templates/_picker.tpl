{{/*
The configuration of the picker of (dict "root" $ "pool" "http"), or of the pool "grpc": an EndpointPickerConfig
of llm-d-router. The picker reads it strictly: it exits on a name that it does not know.

A picker knows the prompts of a request only where a parser claims its path: openai-parser those of OpenAI, and
vllmgrpc-parser Generate and Embed of VllmEngine. It places other requests only by load. Both pickers read metrics
from the HTTP port, because the gRPC port has none.
*/}}
{{- define "antipode.pickerConfig" -}}
{{- $isHttp := eq .pool "http" -}}
{{- $isBusyScored := .root.Values.picker.deviceBusyScorer -}}
{{- $parser := ternary "openai-parser" (ternary "vllmgrpc-parser" "" (eq .root.Values.picker.grpcParser "vllmgrpc")) $isHttp -}}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  {{- with $parser }}
  - type: {{ . }}
  {{- end }}
  - type: passthrough-parser
  - type: metrics-data-source
    parameters: {scheme: http, path: /metrics, port: 8000}
  - type: core-metrics-extractor
    parameters:
      defaultEngine: antipode
      engineConfigs:
        - name: antipode
          queuedRequestsSpec: antipode_num_requests_waiting
          runningRequestsSpec: antipode_num_requests_running
          kvUsageSpec: antipode_kv_cache_usage_ratio
          cacheInfoSpec: antipode_cache_config_info
          cacheBlockSizeLabelName: block_size
          cacheNumBlocksLabelName: num_blocks
          {{- if $isBusyScored }}
          customMetrics:
            - {attributeKey: antipode.device_busy, metricSpec: antipode_device_busy_ratio}
          {{- end }}
  # Metrics are 50 ms old: a burst that is placed by metrics goes to one pod. This scorer counts the requests that
  # the picker itself has in flight.
  - type: active-request-scorer
  - type: queue-scorer
  - type: kv-cache-utilization-scorer
  {{- if $parser }}
  - type: prefix-cache-scorer
  {{- end }}
  {{- if $isBusyScored }}
  - type: endpoint-attribute-scorer
    parameters:
      attributeKey: antipode.device_busy
      algorithm: {type: linear_lower_is_better, normalization: {fixedRange: {min: 0, max: 1}}}
  {{- end }}
# The picker refuses a request if no parser knows its path, so the last parser takes every path.
requestHandler:
  parsers:
    {{- with $parser }}
    - pluginRef: {{ . }}
    {{- end }}
    - pluginRef: passthrough-parser
schedulingProfiles:
  - name: default
    plugins:
      - {pluginRef: active-request-scorer, weight: 2}
      - {pluginRef: queue-scorer, weight: 2}
      - {pluginRef: kv-cache-utilization-scorer, weight: 2}
      {{- if $parser }}
      - {pluginRef: prefix-cache-scorer, weight: 3}
      {{- end }}
      {{- if $isBusyScored }}
      - {pluginRef: endpoint-attribute-scorer, weight: 1}
      {{- end }}
{{- end }}
