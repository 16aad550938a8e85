"""Heads by name, in a service that runs: they are fitted, listed, used, changed and deleted."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.heads.examples import digest
from app.heads.fit import fit
from app.heads.store import Store
from tests.heads.labelled import SPACE, clusters, cut
from tests.heads.service import add, classify, files, problem, put
from tests.server import Server, serving

TWO = {"cat": 3, "coffee": 3}
ADMIN, USER = "the-admin", "the-user"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"heads": folder, "max_heads": 6, "max_head_classes": 3, "max_head_examples": 12, "max_pixels": 10**6}
    with serving(tmp_path_factory.mktemp("service") / "log", **settings) as server:  # type: ignore[arg-type]
        yield server


@pytest.fixture
def api(service: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client
        for head in client.get("/heads").json()["heads"]:
            client.delete(f"/heads/{head['name']}")


def test_a_head_is_fitted_described_used_and_deleted(api: httpx.Client) -> None:
    answer = put(api, "pets", TWO)
    assert answer.status_code == 200, answer.text
    info = answer.json()
    assert [(one["label"], one["examples"], one["recall"]) for one in info["classes"]] == [
        ("cat", 3, 1),
        ("coffee", 3, 1),
    ]
    assert (info["state"], info["method"], info["measured"], info["accuracy"]) == ("ready", "ridge", "leave-one-out", 1)
    assert (info["examples"], info["repeated"], info["skipped"]) == (6, 0, [])
    assert answer.headers["etag"] == f'"{info["version"]}"'
    assert info["version"].startswith("1-")
    vector = api.post("/embed?normalize=true", content=cut("cat", 1)[0])
    assert info["fingerprint"] == vector.headers["vitrine-fingerprint"]
    listed = api.get("/heads").json()
    assert (listed["kept"], listed["writable"], [one["name"] for one in listed["heads"]]) == (
        "directory",
        True,
        ["pets"],
    )
    described = api.get("/heads/pets")
    assert described.headers["etag"] == answer.headers["etag"]
    assert {name: info[name] for name in described.json()} == described.json()
    found = classify(api, "pets", [cut("cat", 1, 9)[0], cut("coffee", 1, 9)[0]])
    assert [one["predictions"][0]["label"] for one in found["results"]] == ["cat", "coffee"]
    assert found["head"] == {"name": "pets", "version": info["version"]}
    assert api.delete("/heads/pets").json() == {"name": "pets", "deleted": info["version"]}
    assert problem(api.get("/heads/pets")) == (404, "head_not_found")
    assert problem(api.post("/classify?head=pets", content=cut("cat", 1)[0])) == (404, "head_not_found")
    assert problem(api.delete("/heads/pets")) == (404, "head_not_found")


def test_confidence_distance_and_the_nearest_examples(api: httpx.Client) -> None:
    put(api, "pets", {"cat": 5, "coffee": 5})
    known, unknown = classify(api, "pets", [cut("cat", 1)[0], cut("rocket", 1)[0]], "&explain=3")["results"]
    assert known["confidence"] == known["predictions"][0]["score"]
    assert known["distance"] > unknown["distance"] == 0
    assert known["nearest"][0]["name"] == "cat-0.png"
    assert known["nearest"][0]["digest"] == digest(cut("cat", 1)[0])
    assert known["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    cosines = [one["cosine"] for one in known["nearest"]]
    assert cosines == sorted(cosines, reverse=True)
    assert len(cosines) == 3
    plain = api.post("/classify", content=cut("cat", 1)[0]).json()
    assert not {"confidence", "distance", "nearest"} & set(plain["results"][0])
    assert problem(api.post("/classify?explain=1", content=cut("cat", 1)[0])) == (422, "invalid_parameter")


def test_probabilities_as_an_array_and_the_headers(api: httpx.Client) -> None:
    version = put(api, "pets", TWO).json()["version"]
    answers = [
        api.post("/classify?head=pets", content=cut("cat", 1)[0], headers={"Accept": accept})
        for accept in ("application/json", "application/x-npy")
    ]
    assert {answer.headers["vitrine-head"] for answer in answers} == {f"name=pets, version={version}"}
    assert len({answer.headers["vitrine-fingerprint"] for answer in answers}) == 1
    put(api, "pets", {"cat": 2, "coffee": 3})
    other = api.post("/classify?head=pets", content=cut("cat", 1)[0])
    assert other.headers["vitrine-fingerprint"] != answers[0].headers["vitrine-fingerprint"]
    import io

    array = np.load(io.BytesIO(answers[1].content))
    assert array.shape == (1, 2)
    scores = {one["index"]: one["score"] for one in answers[0].json()["results"][0]["predictions"]}
    assert array[0].tolist() == pytest.approx([scores[0], scores[1]])


def test_more_examples_and_new_classes_are_fitted_again(api: httpx.Client) -> None:
    put(api, "pets", TWO, "?method=mean")
    answer = add(api, "pets", files({"rocket": 2, "cat": 1}, first=4))
    assert answer.status_code == 200, answer.text
    info = answer.json()
    assert [(one["label"], one["examples"]) for one in info["classes"]] == [("cat", 4), ("coffee", 3), ("rocket", 2)]
    assert info["method"] == "mean"
    assert info["version"].startswith("2-")
    assert classify(api, "pets", cut("rocket", 1, 9))["results"][0]["predictions"][0]["label"] == "rocket"
    assert problem(add(api, "none", files({"cat": 1}))) == (404, "head_not_found")


def test_the_same_picture_counts_once(api: httpx.Client) -> None:
    put(api, "pets", TWO)
    answer = add(api, "pets", files({"cat": 2}))
    assert (answer.json()["examples"], answer.json()["repeated"]) == (6, 2)


def test_a_bad_picture_is_named_and_nothing_is_fitted(api: httpx.Client) -> None:
    pictures = [*files(TWO), ("cat", ("bad.png", b"no picture")), ("coffee", ("empty.png", b""))]
    answer = api.put("/heads/pets", files=pictures)
    assert problem(answer) == (422, "bad_examples")
    assert "picture 3 of the class 'cat' (bad.png)" in answer.json()["detail"]
    named = [(one["class"], one["place"], one["name"], one["code"]) for one in answer.json()["errors"]]
    assert named == [("cat", 3, "bad.png", "not_an_image"), ("coffee", 3, "empty.png", "empty_image")]
    assert problem(api.get("/heads/pets")) == (404, "head_not_found")
    skipped = api.put("/heads/pets?skip_bad=true", files=pictures)
    assert skipped.status_code == 200
    assert [one["name"] for one in skipped.json()["skipped"]] == ["bad.png", "empty.png"]
    assert skipped.json()["examples"] == 6


def test_bad_pictures_that_leave_too_few_classes_are_named(api: httpx.Client) -> None:
    bad = ("coffee", ("bad.png", b"no picture"))
    answer = api.put("/heads/pets?skip_bad=true", files=[*files({"cat": 2}), bad])
    assert problem(answer) == (422, "bad_examples")
    assert answer.json()["detail"].endswith("; nothing was fitted (too few classes are left for a head)")
    assert [one["class"] for one in answer.json()["errors"]] == ["coffee"]
    none = api.put("/heads/pets?skip_bad=true", files=[bad])
    assert none.json()["detail"].endswith("; nothing was fitted (no picture is left)")


@pytest.mark.parametrize(
    ("counts", "query", "expected"),
    [
        ({"cat": 2}, "", (422, "too_few_examples")),
        ({"cat": 2, "coffee": 1}, "?method=logistic", (422, "too_few_examples")),
        ({"cat": 7, "coffee": 6}, "", (413, "too_many_examples")),
        ({"cat": 1, "coffee": 1}, "?pool=patches", (422, "invalid_parameter")),
        ({"cat": 1, "coffee": 1}, "?name=pets", (422, "unknown_parameter")),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    api: httpx.Client, counts: dict[str, int], query: str, expected: tuple[int, str]
) -> None:
    assert problem(put(api, "pets", counts, query)) == expected


def test_limits_and_forms_that_are_refused(api: httpx.Client) -> None:
    four = [(name, ("a.png", cut("cat", 1)[0])) for name in "abcd"]
    assert problem(api.put("/heads/pets", files=four)) == (413, "too_many_classes")
    assert problem(api.put("/heads/pets", content=b"x")) == (400, "malformed_body")
    assert problem(api.put("/heads/Pets", files=four)) == (422, "invalid_parameter")
    assert problem(api.put("/heads/pets", data={"cat": "text"}, files=four[:1])) == (422, "unknown_parameter")
    assert problem(api.put("/heads/pets", files=[(" ", ("a.png", b"x"))])) == (422, "invalid_parameter")
    for number in range(6):
        assert put(api, f"head-{number}", {"cat": 1, "coffee": 1}, "?method=mean").status_code == 200
    assert problem(put(api, "head-6", {"cat": 1, "coffee": 1})) == (409, "too_many_heads")
    assert put(api, "head-0", {"cat": 1, "coffee": 1}).status_code == 200


def test_a_head_answers_only_at_its_resolution(api: httpx.Client) -> None:
    assert put(api, "large", TWO, "?size=140x98&resize=squash&pool=mean").json()["size"] == [140, 98]
    found = classify(api, "large", cut("cat", 1, 9))
    network = found["results"][0]["network"]
    assert (network["height"], network["width"], network["resize"]) == (140, 98, "squash")
    refused = api.post("/classify?head=large&size=112", content=cut("cat", 1)[0])
    assert problem(refused) == (422, "invalid_parameter")
    assert "was fitted at 140x98 with resize=squash" in refused.json()["detail"]


def test_writes_are_ordered_by_versions(api: httpx.Client) -> None:
    first = put(api, "pets", TWO, If_None_Match="*")
    assert problem(put(api, "pets", TWO, If_None_Match="*")) == (412, "head_changed")
    second = put(api, "pets", {"cat": 2, "coffee": 3}, If_Match=first.headers["etag"])
    assert second.status_code == 200
    assert problem(put(api, "pets", TWO, If_Match=first.headers["etag"])) == (412, "head_changed")
    stale = add(api, "pets", files({"cat": 1}, 5), If_Match=first.headers["etag"])
    assert problem(stale) == (412, "head_changed")
    assert second.json()["version"] in stale.json()["detail"]
    assert problem(api.delete("/heads/pets", headers={"If-Match": '"1-0"'})) == (412, "head_changed")
    assert problem(api.delete("/heads/pets", headers={"If-Match": "nonsense"})) == (422, "invalid_parameter")
    assert problem(put(api, "other", TWO, If_Match="*")) == (412, "head_changed")


def test_two_writers_at_once_lose_nothing(api: httpx.Client, service: Server) -> None:
    put(api, "pets", {"cat": 1, "coffee": 1})
    answers: list[httpx.Response] = []

    def write(number: int) -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            answers.append(add(client, "pets", files({"cat": 1}, first=number)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert api.get("/heads/pets").json()["examples"] == 6
    assert api.get("/heads/pets").json()["version"].startswith("5-")


def test_the_old_head_answers_while_the_new_one_is_fitted(api: httpx.Client, service: Server) -> None:
    version = put(api, "pets", TWO).json()["version"]
    seen, ended = set(), threading.Event()

    def write() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            put(client, "pets", {"cat": 4, "coffee": 5})
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not ended.is_set():
        seen.add(classify(api, "pets", cut("cat", 1, 9))["head"]["version"])
    thread.join()
    new = api.get("/heads/pets").json()["version"]
    assert version in seen
    assert seen <= {version, new}


def test_heads_of_the_dialects(api: httpx.Client) -> None:
    put(api, "pets", TWO)
    model = "vit-small-tiny-imagenet@pets"
    assert model in api.get("/v2/models").json()["models"]
    assert api.get(f"/v2/models/{model}/ready").json() == {"name": model, "ready": True}
    assert problem_of(api.get(f"/v2/models/{model}x/ready")) == 404
    picture = cut("cat", 1, 9)[0]
    expected = classify(api, "pets", [picture])["results"][0]["predictions"]
    import base64

    text = base64.b64encode(picture).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    answer = api.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]}).json()
    outputs = {one["name"]: one["data"] for one in answer["outputs"]}
    assert outputs["labels"] == [one["label"] for one in expected]
    assert outputs["scores"] == pytest.approx([one["score"] for one in expected], abs=1e-6)
    assert len(outputs["embedding"]) == 384
    hugging = api.post("/pipeline/image-classification?head=pets", content=picture)
    assert [one["label"] for one in hugging.json()] == [one["label"] for one in expected]
    assert hugging.headers["vitrine-head"].startswith("name=pets, version=1-")
    attributes = {"X-Amzn-SageMaker-Custom-Attributes": "head=pets&top_k=1"}
    invoked = api.post("/invocations", content=picture, headers=attributes).json()
    assert invoked["results"][0]["predictions"] == expected[:1]
    assert invoked["head"]["name"] == "pets"


def problem_of(answer: httpx.Response) -> int:
    return answer.status_code


def test_a_head_of_other_weights_is_stale_and_a_damaged_one_broken(api: httpx.Client, folder: Path) -> None:
    store = Store(folder, 10, 10**9)
    store.put("other", fit(clusters(TWO, dim=384), SPACE)[0])
    (folder / "damaged.safetensors").write_bytes(b"no head")
    time.sleep(1.1)
    states = {one["name"]: one["state"] for one in api.get("/heads").json()["heads"]}
    assert states == {"other": "stale", "damaged": "broken"}
    picture = cut("cat", 1)[0]
    stale = api.post("/classify?head=other", content=picture)
    assert problem(stale) == (409, "head_stale")
    assert "was fitted on vectors of model in float32" in stale.json()["detail"]
    assert problem(add(api, "other", files({"cat": 1}))) == (409, "head_stale")
    for path in ("", "/ready", "/versions/1/ready"):
        refused = api.get(f"/v2/models/vit-small-tiny-imagenet@other{path}")
        assert refused.status_code == 409
        assert refused.json()["error"] == stale.json()["detail"]
    assert problem(api.post("/classify?head=damaged", content=picture)) == (409, "head_broken")
    assert put(api, "damaged", TWO).status_code == 200
    assert str(folder) not in api.get("/heads").text


def test_heads_answer_while_their_directory_is_away(api: httpx.Client, folder: Path) -> None:
    version = put(api, "pets", TWO).json()["version"]
    away = folder.with_name("away")
    folder.rename(away)
    try:
        time.sleep(1.1)
        assert api.get("/heads").status_code == 200
        assert classify(api, "pets", cut("cat", 1))["head"]["version"] == version
        assert problem(put(api, "pets", TWO)) == (503, "head_not_saved")
    finally:
        away.rename(folder)


def test_writing_is_off_unless_somebody_turns_it_on(half: Server) -> None:
    with httpx.Client(base_url=half.url, timeout=60) as client:
        assert problem(put(client, "pets", TWO)) == (403, "heads_off")
        refused = client.delete("/heads/pets").json()
        assert refused["code"] == "heads_off"
        why = {"code": "heads_off", "detail": refused["detail"]}
        assert client.get("/heads").json() == {"kept": "memory", "writable": False, "refusal": why, "heads": []}
        assert client.get("/model").json()["fitted_heads"] == {"kept": "memory", "names": []}


def test_a_page_of_another_origin_writes_nothing(api: httpx.Client) -> None:
    assert problem(put(api, "pets", TWO, Sec_Fetch_Site="cross-site", Origin="https://evil.example")) == (
        403,
        "forbidden",
    )
    assert put(api, "pets", TWO, Sec_Fetch_Site="same-origin").status_code == 200


def test_only_an_admin_writes_where_there_are_keys(tmp_path: Path) -> None:
    def key(name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {name}"}

    keys = {"api_keys": USER, "admin_keys": ADMIN}
    with serving(tmp_path / "log", **keys) as server, httpx.Client(base_url=server.url, timeout=60) as client:  # type: ignore[arg-type]
        assert problem(put(client, "pets", TWO)) == (401, "unauthorized")
        assert problem(put(client, "pets", TWO, **key(USER))) == (403, "forbidden")
        assert put(client, "pets", TWO, **key(ADMIN)).status_code == 200
        refused = client.get("/heads", headers=key(USER)).json()
        assert (refused["writable"], refused["refusal"]["code"]) == (False, "forbidden")
        listed = client.get("/heads", headers=key(ADMIN)).json()
        assert (listed["kept"], listed["writable"], listed["refusal"]) == ("memory", True, None)
        assert client.get("/heads").status_code == 401
        answer = client.post("/classify?head=pets", content=cut("cat", 1)[0], headers=key(USER))
        assert answer.status_code == 200
        assert problem(client.delete("/heads/pets", headers=key(USER))) == (403, "forbidden")
        assert client.delete("/heads/pets", headers=key(ADMIN)).status_code == 200


def test_the_method_head_is_answered_like_get(api: httpx.Client) -> None:
    put(api, "pets", TWO)
    full, bare = api.get("/heads/pets"), api.head("/heads/pets")
    assert (bare.status_code, bare.content) == (full.status_code, b"") == (200, b"")
    assert bare.headers["etag"] == full.headers["etag"]
