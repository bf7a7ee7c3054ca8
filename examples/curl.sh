#!/usr/bin/env bash
# Ask a server over HTTP: whether it is ready, a chat as one answer, a completion as a stream.
set -euo pipefail

server=${ANTIPODE_HTTP:-http://localhost:8000}

# 200 once the server can answer; before that, 503 with what start-up is doing.
curl --silent --show-error --fail-with-body "${server}/readyz"
echo

curl --silent --show-error --fail-with-body "${server}/v1/chat/completions" \
  --header 'Content-Type: application/json' \
  --data '{
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 32,
    "temperature": 0
  }'
echo

# One event per line; the last one is "data: [DONE]".
curl --silent --show-error --fail-with-body --no-buffer "${server}/v1/completions" \
  --header 'Content-Type: application/json' \
  --data '{"prompt": "Once upon a time", "max_tokens": 16, "stream": true}'
