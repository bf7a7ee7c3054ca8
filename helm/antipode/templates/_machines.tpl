{{/* Slices by name: machine type, chips per machine, and the number of machines if there are several. */}}
{{- define "antipode.slices" -}}
v5e:1x1: {machine: ct5lp-hightpu-1t, chips: 1}
v5e:2x2: {machine: ct5lp-hightpu-4t, chips: 4}
v5e:2x4: {machine: ct5lp-hightpu-8t, chips: 8}
v5e:4x4: {machine: ct5lp-hightpu-4t, chips: 4, hosts: 4}
v5p:2x2x1: {machine: ct5p-hightpu-4t, chips: 4}
v5p:2x2x2: {machine: ct5p-hightpu-4t, chips: 4, hosts: 2}
v6e:1x1: {machine: ct6e-standard-1t, chips: 1}
v6e:2x2: {machine: ct6e-standard-4t, chips: 4}
v6e:2x4: {machine: ct6e-standard-8t, chips: 8}
v6e:4x4: {machine: ct6e-standard-4t, chips: 4, hosts: 4}
v7x:2x2x1: {machine: tpu7x-standard-4t, chips: 4}
v7x:2x2x2: {machine: tpu7x-standard-4t, chips: 4, hosts: 2}
{{- end }}

{{/* What GKE leaves to pods on a machine: CPUs, and GiB of memory. The published memory is less GKE's reservation. */}}
{{- define "antipode.machines" -}}
ct5lp-hightpu-1t: {cpus: 23, memory: 40}
ct5lp-hightpu-4t: {cpus: 111, memory: 168}
ct5lp-hightpu-8t: {cpus: 223, memory: 343}
ct5p-hightpu-4t: {cpus: 207, memory: 402}
ct6e-standard-1t: {cpus: 43, memory: 153}
ct6e-standard-4t: {cpus: 179, memory: 650}
ct6e-standard-8t: {cpus: 179, memory: 1307}
tpu7x-standard-4t: {cpus: 223, memory: 869}
{{- end }}

{{/* A quantity of memory, such as 64Gi, in MiB. */}}
{{- define "antipode.mebibytes" -}}
{{- $units := dict "" 0.00000095367431640625 "k" 0.00095367431640625 "M" 0.95367431640625
  "G" 953.67431640625 "T" 953674.31640625 "Ki" 0.0009765625 "Mi" 1.0 "Gi" 1024.0 "Ti" 1048576.0 -}}
{{ mulf (regexFind "^[0-9.]+" . | float64) (index $units (regexFind "[A-Za-z]*$" .)) | ceil | int64 }}
{{- end }}

{{/* A quantity of CPUs, such as 8 or 500m, in thousandths. */}}
{{- define "antipode.milliCpus" -}}
{{ ternary (trimSuffix "m" . | float64) (mulf (trimSuffix "m" . | float64) 1000) (hasSuffix "m" .) | ceil | int64 }}
{{- end }}
