"""Optimized HLO as libtpu writes it, cut down: a step of four layers with one branch.

The entry copies its input into VMEM, scans four layers (a kernel, a product, an all-reduce over
four chips, a reduce-scatter in libtpu's form), then samples: a branch that does nothing, or one
with a loop of 32. A scatter on the sparse core has no estimate.
"""

STEP = """\
HloModule jit_step, is_scheduled=true, input_output_alias={ {1}: (1, {}, may-alias), {2}: (2, {}, may-alias) }, entry_computation_layout={(bf16[64,4096]{1,0:T(8,128)(2,1)}, bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}, s32[65]{0:T(128)})->(f32[64]{0:T(128)}, bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}, s32[65]{0:T(128)})}

%add.1 (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[]{:T(256)} parameter(0)
  %b = bf16[]{:T(256)} parameter(1)
  ROOT %sum = bf16[]{:T(256)} add(%a, %b)
}

%all-reduce-scatter.7 (in: bf16[64,4096]) -> bf16[16,4096] {
  %in = bf16[64,4096]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[64,4096]{1,0:T(8,128)(2,1)} all-reduce(%in), channel_id=2, replica_groups={{0,1,2,3}}, use_global_device_ids=true, to_apply=%add.1
  ROOT %slice = bf16[16,4096]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9)
}

%fused.1 (p: bf16[64,4096]) -> bf16[64,4096] {
  %p = bf16[64,4096]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %inner = bf16[64,4096]{1,0:T(8,128)(2,1)} copy(%p), backend_config={"estimated_cycles":"77"}
}

%body (state: (s32[], bf16[64,4096], bf16[40,128,2,2,128])) -> (s32[], bf16[64,4096], bf16[40,128,2,2,128]) {
  %state = (s32[]{:T(128)}, bf16[64,4096]{1,0:T(8,128)(2,1)S(1)}, bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}) parameter(0)
  %RPAd-nhs.3 = (bf16[2,64,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}, bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}) custom-call(%state), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{}}
  %fusion.1 = bf16[64,4096]{1,0:T(8,128)(2,1)S(1)} fusion(%RPAd-nhs.3), kind=kLoop, calls=%fused.1, backend_config={"flag_configs":[],"estimated_cycles":"1000","iteration_bounds":["8"]}
  %psum.1 = bf16[64,4096]{1,0:T(8,128)(2,1)S(1)} all-reduce(%fusion.1), channel_id=1, replica_groups=mesh['data'=1,'tensor'=4] {'tensor'}, use_global_device_ids=true, to_apply=%add.1
  %scattered = bf16[16,4096]{1,0:T(8,128)(2,1)} fusion(%psum.1), kind=kCustom, calls=%all-reduce-scatter.7, backend_config={"estimated_cycles":"10"}
  ROOT %out = (s32[]{:T(128)}, bf16[64,4096]{1,0:T(8,128)(2,1)S(1)}, bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}) tuple(%state)
}

%condition (state.1: (s32[], bf16[64,4096], bf16[40,128,2,2,128])) -> pred[] {
  %four = s32[]{:T(128)} constant(4)
  %state.1 = (s32[]{:T(128)}, bf16[64,4096]{1,0:T(8,128)(2,1)S(1)}, bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %four), direction=LT
}

%bisect (cut: (s32[], f32[64])) -> (s32[], f32[64]) {
  ROOT %cut = (s32[]{:T(128)}, f32[64]{0:T(128)S(1)}) parameter(0), backend_config={"estimated_cycles":"50"}
}

%bisect_condition (cut.1: (s32[], f32[64])) -> pred[] {
  %thirty_two = s32[]{:T(128)} constant(32)
  %cut.1 = (s32[]{:T(128)}, f32[64]{0:T(128)S(1)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%cut.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%j, %thirty_two), direction=LT
}

%greedy (x: f32[64]) -> (f32[64]) {
  %x = f32[64]{0:T(128)S(1)} parameter(0)
  ROOT %copy.1 = f32[64]{0:T(128)S(1)} copy(%x), backend_config={"estimated_cycles":"5"}
}

%filtered (y: f32[64]) -> (f32[64]) {
  %y = f32[64]{0:T(128)S(1)} parameter(0)
  %while.2 = (s32[]{:T(128)}, f32[64]{0:T(128)S(1)}) while(%y), condition=%bisect_condition, body=%bisect
  ROOT %noise = f32[64]{0:T(128)S(1)} fusion(%while.2), kind=kLoop, calls=%fused.1, backend_config={"estimated_cycles":"405"}
}

%sparse (s: s32[65]) -> s32[65] {
  ROOT %s = s32[65]{0:T(128)} parameter(0), backend_config={"estimated_cycles":"9223372036854775807"}
}

ENTRY %main.64_spmd (param.0: bf16[64,4096], param.1: bf16[40,128,2,2,128], param.2: s32[65]) -> (f32[64], bf16[40,128,2,2,128], s32[65]) {
  %param.0 = bf16[64,4096]{1,0:T(8,128)(2,1)} parameter(0)
  %param.1 = bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)} parameter(1)
  %param.2 = s32[65]{0:T(128)} parameter(2)
  %copy-start.4 = (bf16[64,4096]{1,0:T(8,128)(2,1)S(1)}, bf16[64,4096]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%param.0)
  %schedule.1 = (s32[49152]{0:T(1024)}, s32[1]{0:T(128)}) custom-call(%param.2), custom_call_target="tpu_custom_call"
  %while.42 = (s32[]{:T(128)}, bf16[64,4096]{1,0:T(8,128)(2,1)S(1)}, bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}) while(%copy-start.4), condition=%condition, body=%body, metadata={op_name="jit(step)/while"}
  %conditional.9 = (f32[64]{0:T(128)S(1)}) conditional(%while.42, %param.2), branch_computations={%greedy, %filtered}
  %scatter = s32[65]{0:T(128)} custom-call(%param.2), custom_call_target="Sparse", backend_config={"estimated_cycles":"9223372036854775807"}
  %started = ((s32[65]{0:T(128)}), s32[65]{0:T(128)}, u32[]{:S(8)}) call-start(%scatter), async_execution_thread="sparsecore", to_apply=%sparse
  ROOT %result = (f32[64]{0:T(128)}, bf16[40,128,2,2,128]{4,3,2,1,0:T(2,128)(2,1)}, s32[65]{0:T(128)}) tuple(%conditional.9, %while.42), backend_config={"estimated_cycles":"3"}
}
"""  # noqa: E501 - one instruction a line

# The same step with nothing donated.
WITHOUT_ALIASES = STEP.replace(
    "input_output_alias={ {1}: (1, {}, may-alias), {2}: (2, {}, may-alias) }, ", ""
)
