"""Good files from everywhere, where the shared corpus is at hand: every one of them is answered."""

import zipfile
from importlib import resources
from pathlib import Path

import httpx


def test_every_good_image_is_answered(shared: Path, client: httpx.Client) -> None:
    files = sorted((shared / "corpus" / "good").iterdir())
    assert files
    refused = {}
    for path in files:
        response = client.post("/classify?top_k=1", content=path.read_bytes())
        if response.status_code != 200:
            refused[path.name] = response.json()["detail"]
    assert refused == {}


def test_the_default_model_knows_its_classes(shared: Path, client: httpx.Client) -> None:
    """A fifth of the labelled pictures, against the model card's 76.4% (of all 10,000)."""
    import tests.originals  # noqa: F401 - makes timm importable

    lemmas = resources.files("timm.data").joinpath("_info/imagenet_synset_to_lemma.txt").read_text()
    name_of = dict(line.split("\t") for line in lemmas.splitlines())
    labels = client.get("/model").json()["labels"]
    with zipfile.ZipFile(shared / "data" / "tiny-imagenet-val-2000.zip") as archive:
        rows = [line.split("\t") for line in archive.read("labels.tsv").decode().splitlines()[1::5]]
        pictures = [archive.read(file) for file, _ in rows]
    predicted: list[str] = []
    for start in range(0, len(pictures), 50):
        files = [("image", picture) for picture in pictures[start : start + 50]]
        results = client.post("/classify?top_k=1", files=files).json()["results"]
        predicted += [labels[result["predictions"][0]["index"]] for result in results]
    right = [name_of[synset].startswith(label) for (_, synset), label in zip(rows, predicted, strict=True)]
    assert len(right) == 400
    assert sum(right) / len(right) > 0.7
