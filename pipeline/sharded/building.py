"""How a stage makes shards: in a folder that outlives an attempt, taken over into the artifact at its end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pipeline.digest import digest
from pipeline.sharded.folder import Generation, ShardFolder
from pipeline.stage import StageContext

_BUILDING = "building"


def building_folder(ctx: StageContext, made_of: Mapping[str, Any]) -> ShardFolder:
    """Where the stage's shards grow; another one for other inputs. A build that died goes on with what is there."""
    return ShardFolder(ctx.workspace.uri, ctx.workspace.path(_BUILDING, ctx.out.stage, digest(made_of)))


def finish(ctx: StageContext, directory: str, building: ShardFolder, generation: Generation) -> None:
    """Make the generation's files the artifact's folder `directory`, and delete what is left of the building."""
    folder = ShardFolder(ctx.workspace.uri, ctx.out.part_folder(directory))
    folder.take_over(building, generation.files())
    ctx.out.adopt_files(directory, folder.commit(generation))
    ctx.out.after_commit(partial(ctx.workspace.delete_folder, _BUILDING, ctx.out.stage))
