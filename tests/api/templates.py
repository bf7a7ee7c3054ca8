"""The essential shapes of published chat templates, small, and a tokenizer with their tokens.

The branches are those that matter here: which roles and fields appear, what is refused, what is
dropped, and which tokens the template writes.
"""

from __future__ import annotations

from tokenizers import AddedToken

from server.api.tokenizers.tokenizer import Tokenizer
from tests.api.fakes import CHAT_TEMPLATE, small_pretrained

_GENERATE = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_QWEN_TOOLS = (
    "{%- if tools %}<|im_start|>system\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "# Tools\n<tools>{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}"
    "{{ '\n' }}</tools>\n"
    'Answer with <tool_call>\n{"name": <name>, "arguments": <args>}\n</tool_call><|im_end|>\n'
    "{% elif messages[0].role == 'system' %}"
    "<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
)
_QWEN_MESSAGES = (
    "{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant"
    "THOUGHT"
    "{% if m.content %}{{ '\n' }}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ '\n' }}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}"
    "\n</tool_response><|im_end|>\n{% endif %}{% endfor %}"
)
_THOUGHT = (
    "{% if m.reasoning_content %}{{ '\n' }}<think>\n{{ m.reasoning_content }}\n</think>\n"
    "{% endif %}"
)
QWEN2 = _QWEN_TOOLS + _QWEN_MESSAGES.replace("THOUGHT", "") + _GENERATE
QWEN3 = (
    _QWEN_TOOLS
    + _QWEN_MESSAGES.replace("THOUGHT", _THOUGHT)
    + _GENERATE.replace(
        "{% endif %}",
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "<think>\n\n</think>\n\n{% endif %}{% endif %}",
    )
)
# Opens the reasoning itself, as DeepSeek's distilled models do.
DEEPSEEK = (
    QWEN2.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}") + "{#</think>#}"
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\n{% if tools %}Environment: ipython\n{% endif %}"
    "{{ system }}<|eot_id|>"
    "{% if tools %}{% set first = messages[0].content | trim %}{% set messages = messages[1:] %}"
    "<|start_header_id|>user<|end_header_id|>\n\n"
    'Answer as {"name": function name, "parameters": {..}}.\n'
    "{% for tool in tools %}{{ tool | tojson(indent=4) }}\n\n{% endfor %}{{ first }}<|eot_id|>"
    "{% endif %}{% for m in messages %}"
    "{% if m.role != 'tool' and m.role != 'ipython' and not 'tool_calls' in m %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% elif 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>'
    "{% else %}<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content | tojson }}<|eot_id|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and m == users[-1] %}"
    "[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {% if loop.last and system is defined %}{{ system }}\n\n{% endif %}"
    "{{ m.content }}[/INST]"
    "{% elif m.tool_calls is defined %}[TOOL_CALLS] [{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric') }}{% endif %}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, '
    '"id": "{{ call.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}'
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
    "{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric') }}{% endif %}"
    '[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}"
    "{% endif %}{% endfor %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set prefix = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set prefix = '' %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ prefix if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# As it is published with the models that read images, line for line.
GEMMA3_IMAGES = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}"""
GEMMA2 = GEMMA3.replace(
    "{% set prefix = messages[0].content + '\n\n' %}",
    "{{ raise_exception('System role not supported') }}{% set prefix = '' %}",
)
# gpt-oss's: the model's answers are messages on channels, after `<|start|>assistant`.
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# Gemma 4's arguments and results: bare keys, strings between quotes of their own.
_GEMMA4_VALUE = (
    '{% macro value(v) %}{% if v is string %}<|"|>{{ v }}<|"|>'
    "{% elif v is boolean %}{{ 'true' if v else 'false' }}"
    "{% elif v is mapping %}{{ '{' }}{% for k, i in v | dictsort %}{{ ',' if not loop.first }}"
    "{{ k }}:{{ value(i) }}{% endfor %}{{ '}' }}"
    "{% elif v is sequence %}[{% for i in v %}{{ ',' if not loop.first }}{{ value(i) }}"
    "{% endfor %}]{% else %}{{ v }}{% endif %}{% endmacro %}"
    "{% macro response(name, v) %}<|tool_response>response:{{ name }}{{ '{' }}value:{{ value(v) }}"
    "{{ '}' }}<tool_response|>{% endmacro %}"
)
_GEMMA4_SYSTEM = (
    "{{ bos_token }}{% set first = messages[0] %}"
    "{% set is_system = first.role in ['system', 'developer'] %}"
    "{% set enable_thinking = enable_thinking | default(false) %}"
    "{% if enable_thinking or tools or is_system %}<|turn>system\n"
    "{% if enable_thinking %}<|think|>\n{% endif %}"
    "{% if is_system %}{{ first.content | trim }}{% set messages = messages[1:] %}{% endif %}"
    "{% for t in tools or [] %}<|tool>declaration:{{ t.function.name }}"
    "{{ value({'description': t.function.description, 'parameters': t.function.parameters}) }}"
    "<tool|>{% endfor %}<turn|>\n{% endif %}"
)
# What an assistant says stays in one turn, results included. Its former thoughts are left out.
GEMMA4 = (
    _GEMMA4_VALUE + _GEMMA4_SYSTEM + "{% set ns = namespace(last='', user=-1) %}"
    "{% for m in messages if m.role == 'user' %}{% set ns.user = messages.index(m) %}{% endfor %}"
    "{% for m in messages if m.role != 'tool' %}"
    "{% if m.role != 'assistant' or ns.last not in ['tool', 'assistant'] %}"
    "<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{% endif %}"
    "{% set ns.last = m.role %}"
    "{% if m.reasoning_content and m.tool_calls and messages.index(m) > ns.user %}"
    "<|channel>thought\n{{ m.reasoning_content }}\n<channel|>{% endif %}"
    "{% for c in m.tool_calls or [] %}<|tool_call>call:{{ c.function.name }}"
    "{{ value(c.function.arguments) }}<tool_call|>{% endfor %}"
    "{% set results = namespace(open=true) %}"
    "{% if m.tool_calls %}{% for r in messages[messages.index(m) + 1:] %}"
    "{% set results.open = results.open and r.role == 'tool' %}{% if results.open %}"
    "{% for c in m.tool_calls if c.id == r.tool_call_id %}"
    "{{ response(c.function.name, r.content) }}{% set ns.last = 'tool' %}{% endfor %}"
    "{% endif %}{% endfor %}{% endif %}"
    "{% if m.content is string %}"
    "{% for part in m.content.split('<channel|>') %}{{ part.split('<|channel>')[0] }}{% endfor %}"
    "{% else %}{% for p in m.content %}{{ '<|image|>' if p.type == 'image' else p.text | trim }}"
    "{% endfor %}{% endif %}"
    "{% if not m.tool_calls or m.content %}<turn|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and ns.last != 'tool' %}<|turn>model\n"
    "{% if not enable_thinking %}<|channel>thought\n<channel|>{% endif %}{% endif %}"
)
# As it was first published: results are a field of the message with the calls.
GEMMA4_FIRST = (
    _GEMMA4_VALUE
    + _GEMMA4_SYSTEM
    + "{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% for c in m.tool_calls or [] %}<|tool_call>call:{{ c.function.name }}"
    "{{ value(c.function.arguments) }}<tool_call|>{% endfor %}"
    "{% for r in m.tool_responses or [] %}{{ response(r.name, r.response) }}{% endfor %}"
    "{{ m.content | trim }}"
    "{% if m.content or not m.tool_responses %}<turn|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not messages[-1].tool_responses %}<|turn>model\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "deepseek": DEEPSEEK,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "gemma4-first": GEMMA4_FIRST,
}
SPECIAL = (
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "[INST]", "[/INST]",
    "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "<start_of_turn>", "<end_of_turn>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>",
    "<|constrain|>", "<|call|>", "<|turn>", "<turn|>", "<|think|>", "<|tool>", "<tool|>",
    "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|channel>",
    "<channel|>", '<|"|>', "<|image>", "<|image|>", "<image|>",
)  # fmt: skip
ADDED = (
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<tool_response>",
    "</tool_response>",
)


def tokenizer_with(template: str) -> Tokenizer:
    """The small tokenizer, with the control tokens of all families and one of their templates."""
    pretrained = small_pretrained(chat_template=template, bos_token="<|eos|>")
    fast = pretrained.backend_tokenizer
    fast.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    fast.add_tokens([AddedToken(text, special=False) for text in ADDED])
    return Tokenizer(pretrained)
