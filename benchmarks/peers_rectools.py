"""Train models of RecTools and score queries, in an environment that has RecTools.

    python peers_rectools.py FOLDER

`peers.py` and `lift.py` start this script, and it alone imports RecTools. FOLDER holds what the
models learn from and are asked, and gets their scores:

- `learn.npz`: `user_id`, `item_id`, `datetime`. A user is a piece of a member's activity, an
  item is an integer in [0, J).
- `features.npz`, where items have any: `id`, `feature`, `value`; categories, of which an item may
  have several of one name.
- `asked.npz`: the same columns; a user is a query, and its rows are all that is known of it.
- `context.npz`: `user_id`, `datetime`; when each query is asked.
- `plan.json`: `items` (J), `length` (newest items that a model sees), `threads`, and `runs`, each
  with `model`, `settings` of its class, `seed`, and `epochs`, after which it scores; and `kept`,
  where given: a file that keeps the model, which is not trained again where that is there.
- `RUN-EPOCH.npy`, written: float32 [queries, J] for run number RUN. NaN where the model has not
  seen the item, and in all of a row where it has seen none of what is known of the query.

Models, their preparation of data, loss, training and embeddings are RecTools' own.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import HSTUModel, SASRecModel, load_model

MODELS = {"SASRec": SASRecModel, "HSTU": HSTUModel}
BATCH = 512


def read(path: Path) -> pd.DataFrame:
    """Read interactions, each of weight 1."""
    return pd.DataFrame(dict(np.load(path))).assign(**{Columns.Weight: 1.0})


def read_learn(folder: Path) -> Dataset:
    """Read what models learn from."""
    learn, path = read(folder / "learn.npz"), folder / "features.npz"
    if not path.exists():
        return Dataset.construct(learn)
    features = pd.DataFrame(dict(np.load(path)))
    features = features[features["id"].isin(learn[Columns.Item])]
    return Dataset.construct(
        learn,
        item_features_df=features,
        cat_item_features=sorted(features["feature"].unique()),
    )


class SaveScores(Callback):
    """Scores the queries after some of the epochs of a training.

    Parameters
    ----------
    asked, context
        What is known of the queries, and when they are asked.
    items
        J.
    paths
        Where scores go, by epoch from 1 on.
    """

    def __init__(
        self, asked: pd.DataFrame, context: pd.DataFrame, items: int, paths: dict[int, Path]
    ) -> None:
        self.asked, self.context, self.items, self.paths = asked, context, items, paths
        self.queries = self.batches = None

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Score, and go on to train."""
        path = self.paths.get(trainer.current_epoch + 1)
        if path is not None:
            module.eval()
            np.save(path, self.scores(module))
            module.train()

    def scores(self, module: LightningModule) -> np.ndarray:
        """Return the logit of each item as the next one of each query, float32 [queries, J]."""
        prepared, network = module.data_preparator, module.torch_model
        if self.batches is None:
            queries = prepared.transform_dataset_u2i(
                Dataset.construct(self.asked),
                self.context[Columns.User].to_numpy(),
                # HSTU is told when it is asked.
                self.context.copy() if prepared.add_unix_ts else None,
            )
            self.queries = queries.user_id_map.external_ids
            self.batches = prepared.get_dataloader_recommend(queries, BATCH)
        with torch.no_grad():
            vectors = network.item_model.get_all_embeddings()
            newest = [network.encode_sessions(batch, vectors)[:, -1] for batch in self.batches]
            logits = network.similarity_module(torch.cat(newest), vectors) / module.logits_t
        scores = np.full((len(self.context), self.items), np.nan, np.float32)
        known = prepared.get_known_item_ids().astype(np.int64)
        scores[np.ix_(self.queries, known)] = logits.numpy()[:, prepared.n_item_extra_tokens :]
        return scores


def trainer_of(save: SaveScores, epochs: int) -> Trainer:
    """Return RecTools' default trainer, which also scores."""
    return Trainer(
        min_epochs=epochs,
        max_epochs=epochs,
        callbacks=[save],
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
    )


def main(folder: Path) -> None:
    """Train and score all runs of a folder."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    plan = json.loads((folder / "plan.json").read_text())
    torch.set_num_threads(plan["threads"])
    asked, context = read(folder / "asked.npz"), read(folder / "context.npz")
    learn = read_learn(folder)
    for place, run in enumerate(plan["runs"]):
        seed_everything(run["seed"])
        paths = {epoch: folder / f"{place}-{epoch}.npy" for epoch in run["epochs"]}
        save, kept = SaveScores(asked, context, plan["items"], paths), run.get("kept")
        if kept and Path(kept).exists():
            module = load_model(kept).lightning_model
            module.eval()
            for path in paths.values():
                np.save(path, save.scores(module))
            continue
        epochs = max(run["epochs"])
        # A model that is loaded wants as many epochs as it was trained for.
        settings = {"session_max_len": plan["length"], "epochs": epochs, **run["settings"]}
        model = MODELS[run["model"]](**settings)
        model._trainer = trainer_of(save, epochs)  # as its documentation says
        model.fit(learn)
        if kept:
            model.save(kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
