"""POST /rerank and /score: cosines of embeddings, in the shapes that clients of rerankers read."""

from __future__ import annotations

import numpy as np
import pytest

from server.api.embeddings.embedding_recipe import EmbeddingRecipe
from server.api.generation_service import GenerationService
from tests.api.fakes import hidden_state, make_service

DOCUMENTS = ["bbbb", "aaaa", {"text": "aabb"}]


@pytest.fixture
def service(engine, tokenizer, lifecycle) -> GenerationService:
    """Each letter of these texts is a token, so that equal letters have equal vectors."""
    return make_service(engine, tokenizer, lifecycle, recipe=EmbeddingRecipe())


def similarity(ids, left, right):
    first, second = hidden_state(ids(left)), hidden_state(ids(right))
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


async def post(client, path, **fields):
    response = await client.post(path, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_documents_come_in_the_order_of_their_similarity(client, ids, path):
    answer = await post(client, path, query="aa", documents=DOCUMENTS)
    results = answer["results"]
    assert [result["index"] for result in results] == [1, 2, 0]
    assert [result["document"] for result in results] == [
        {"text": text} for text in ("aaaa", "aabb", "bbbb")
    ]
    expected = [similarity(ids, "aa", text) for text in ("aaaa", "aabb", "bbbb")]
    assert np.allclose([result["relevance_score"] for result in results], expected)
    assert answer["usage"] == {"prompt_tokens": 14, "total_tokens": 14}
    assert answer["id"].startswith("rerank-")


async def test_the_best_are_returned_without_their_documents(client):
    answer = await post(
        client, "/rerank", query="aa", documents=DOCUMENTS, top_n=1, return_documents=False
    )
    [result] = answer["results"]
    assert (result["index"], "document" in result) == (1, False)


async def test_query_and_documents_get_the_checkpoints_prompts(client, service, engine, ids):
    service.embedder.recipe = EmbeddingRecipe(
        prompts={"query": "ask:", "passage": "text:", "all": "x"}, default_prompt="all"
    )
    await post(client, "/rerank", query="aa", documents=["bb"])
    await post(client, "/score", text_1="aa", text_2="bb")
    asked = [each.prompt_token_ids for each in engine.submitted]
    assert asked == [ids(text) for text in ("ask:aa", "text:bb", "xaa", "xbb")]


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        ("a", "ab", [("a", "ab")]),
        ("a", ["a", "b"], [("a", "a"), ("a", "b")]),
        (["a", "b"], ["ab", "bb"], [("a", "ab"), ("b", "bb")]),
    ],
)
@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents")])
async def test_pairs_are_scored_by_their_cosine(client, ids, names, first, second, pairs):
    answer = await post(client, "/score", **dict(zip(names, (first, second), strict=True)))
    assert [entry["index"] for entry in answer["data"]] == list(range(len(pairs)))
    scores = [entry["score"] for entry in answer["data"]]
    assert np.allclose(scores, [similarity(ids, *pair) for pair in pairs])
    assert {entry["object"] for entry in answer["data"]} == {"score"}


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/rerank", {"query": "", "documents": ["a"]}, "must not be empty"),
        ("/rerank", {"query": "a", "documents": []}, "must not be empty"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, "top_n is -1"),
        ("/rerank", {"query": "a", "documents": ["b", "c" * 300]}, "documents[1] has 300"),
        ("/rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 1}, "max_tokens_per"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1 has 2 texts"),
        ("/score", {"text_1": "a", "text_2": []}, "must not be empty"),
        ("/score", {"text_1": "a"}, "text_2"),
    ],
)
async def test_what_cannot_be_compared_is_refused(client, engine, path, fields, words):
    response = await client.post(path, json=fields)
    assert response.status_code == 400, response.text
    assert words in str(response.json()["error"])
    assert engine.submitted == []
