"""What a batch should learn, one loss per row: score matrix and masks, orders or grades in, plain tensors out."""

from pipeline.training.losses.contrastive import infonce, soft_nn, supcon
from pipeline.training.losses.listwise import listwise_cross_entropy
from pipeline.training.losses.margin import margin_mse
from pipeline.training.losses.matryoshka import matryoshka_views
from pipeline.training.losses.preference import bradley_terry, partial_plackett_luce
from pipeline.training.losses.ranking import adr_mse, lambda_loss, list_mle, mse, ranknet

__all__ = [
    "adr_mse",
    "bradley_terry",
    "infonce",
    "lambda_loss",
    "list_mle",
    "listwise_cross_entropy",
    "margin_mse",
    "matryoshka_views",
    "mse",
    "partial_plackett_luce",
    "ranknet",
    "soft_nn",
    "supcon",
]
