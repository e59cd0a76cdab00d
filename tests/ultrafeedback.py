"""A small copy of argilla/ultrafeedback-binarized-preferences-cleaned in its own layout on disk."""

from datasets import Dataset


def ultrafeedback_row(index):
    turn = {"content": f"Question {index}?", "role": "user"}
    return {
        "source": ["sharegpt", "evol_instruct", "flan_v2_niv2"][index % 3],
        "prompt": turn["content"],
        "chosen": [turn, {"content": f"Right {index}.", "role": "assistant"}],
        "chosen-rating": 4.5,
        "chosen-model": "gpt-4",
        "rejected": [turn, {"content": f"Wrong {index}.", "role": "assistant"}],
        "rejected-rating": 2.0,
        "rejected-model": "alpaca-7b",
    }


CARD = """---
license: mit
dataset_info:
  features:
  - name: source
    dtype: string
  - name: prompt
    dtype: string
  - name: chosen
    list:
    - name: content
      dtype: string
    - name: role
      dtype: string
  - name: chosen-rating
    dtype: float64
  - name: chosen-model
    dtype: string
  - name: rejected
    list:
    - name: content
      dtype: string
    - name: role
      dtype: string
  - name: rejected-rating
    dtype: float64
  - name: rejected-model
    dtype: string
  splits:
  - name: train
    num_bytes: 284937773
    num_examples: {rows}
  download_size: 143257393
  dataset_size: 284937773
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
# UltraFeedback - Binarized using the Average of Preference Ratings (Cleaned)
"""


def write_ultrafeedback(folder, count, *, promised=None):
    """Writes a copy of `count` rows; its card promises `promised` (None: as many). Returns the folder."""
    (folder / "data").mkdir(parents=True)
    rows = Dataset.from_list([ultrafeedback_row(index) for index in range(count)])
    rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        CARD.replace("{rows}", str(count if promised is None else promised)), encoding="utf-8"
    )
    return folder
