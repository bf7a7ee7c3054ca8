{{/*
What a picker of the pool "http" or "grpc" chooses by (llm-d-router's EndpointPickerConfig, read strictly:
a name it does not know ends it).

A gRPC request has no body that it can read, so it goes by load alone; of HTTP, what is not an OpenAI
request does. Both read metrics from the HTTP port, for the gRPC port has none.
*/}}
{{- define "antipode.pickerConfig" -}}
{{- $isHttp := eq . "http" -}}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  {{- if $isHttp }}
  - type: openai-parser
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
          customMetrics:
            - {attributeKey: antipode.device_busy, metricSpec: antipode_device_busy_ratio}
  - type: queue-scorer
  - type: kv-cache-utilization-scorer
  {{- if $isHttp }}
  - type: prefix-cache-scorer
  {{- end }}
  - type: endpoint-attribute-scorer
    parameters:
      attributeKey: antipode.device_busy
      algorithm: {type: linear_lower_is_better, normalization: {fixedRange: {min: 0, max: 1}}}
# Where none of these knows a path, the request is refused: the last one takes every path.
requestHandler:
  parsers:
    {{- if $isHttp }}
    - pluginRef: openai-parser
    {{- end }}
    - pluginRef: passthrough-parser
schedulingProfiles:
  - name: default
    plugins:
      - {pluginRef: queue-scorer, weight: 2}
      - {pluginRef: kv-cache-utilization-scorer, weight: 2}
      {{- if $isHttp }}
      - {pluginRef: prefix-cache-scorer, weight: 3}
      {{- end }}
      - {pluginRef: endpoint-attribute-scorer, weight: 1}
{{- end }}
