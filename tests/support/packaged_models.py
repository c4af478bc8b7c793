"""The models of the feature repo, packaged over item vectors of the user's own."""

import json
from pathlib import Path


def package_models(folder: Path) -> Path:
    """Package the three models; the CNN has its first, random weights."""
    import keras

    from activity_embeddings.training.models import CNN, GeometricDecay, UnweightedAverage
    from activity_embeddings.training.packaging import package_model
    from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

    spec, vector_spec = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)
    keras.utils.set_random_seed(7)
    for name, model in {
        "unweighted_average": UnweightedAverage().build(spec, vector_spec),
        "geometric_decay": GeometricDecay(r=0.8).build(spec, vector_spec),
        "cnn": CNN(residual=False).build(spec, vector_spec),
    }.items():
        package_model(
            model, folder / name, name=name, version="1", spec=spec, vector_spec=vector_spec
        )
        _run_by_litert(folder / name)
    return folder


def _run_by_litert(model: Path) -> None:
    """Have LiteRT run batches, whichever runtime was faster when the two were timed."""
    file = model / "assets.extra" / "activity_model.json"
    manifest = json.loads(file.read_text())
    manifest["litert"]["runs_batches"] = True
    file.write_text(json.dumps(manifest))
