"""vllm.grpc.engine.VllmEngine, which endpoint pickers and routers of vLLM call."""
