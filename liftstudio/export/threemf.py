"""Writer of 3MF, the format of 3D printing (3MF core specification 1.3 and materials extension 1.2)."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liftstudio.core.files import atomic_write
from liftstudio.export.asset import MOMENT, Asset, EncodedImage, encoded, widely_read
from liftstudio.export.options import TextureFormat
from liftstudio.export.placement import Placement

MODEL = "3D/3dmodel.model"
TEXTURE = "3D/Textures/color"
CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIAL = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
MODEL_RELATIONSHIP = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
TEXTURE_RELATIONSHIP = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dtexture"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
CONTENT_TYPES = (
    f'{HEAD}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>'
    '<Default Extension="png" ContentType="image/png"/><Default Extension="jpeg" ContentType="image/jpeg"/></Types>'
)
COLORS_ID, OBJECT_ID, TEXTURE_ID = 1, 2, 3  # of the resources


def write_3mf(path: Path, asset: Asset, placement: Placement, texture_format: TextureFormat) -> list[Path]:
    """Write 3MF in millimetres; the surface is not cut along the seams of its texture, so that it stays closed."""
    image = None if asset.skin is None else encoded(asset.skin.color, widely_read(texture_format))
    files: dict[str, str | bytes] = {
        "[Content_Types].xml": CONTENT_TYPES,
        "_rels/.rels": _relationship(MODEL, MODEL_RELATIONSHIP),
        MODEL: _model(asset, placement, image),
    }
    if image is not None:
        files["3D/_rels/3dmodel.model.rels"] = _relationship(TEXTURE + image.suffix, TEXTURE_RELATIONSHIP)
        files[TEXTURE + image.suffix] = image.data
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as package:
        for name, data in files.items():
            package.writestr(zipfile.ZipInfo(name, MOMENT), data, zipfile.ZIP_DEFLATED)
    atomic_write(path, archive.getvalue())
    return [path]


def _relationship(target: str, kind: str) -> str:
    return (
        f'{HEAD}<Relationships xmlns="{RELATIONSHIPS}">'
        f'<Relationship Target="/{target}" Id="rel0" Type="{kind}"/></Relationships>'
    )


def _model(asset: Asset, placement: Placement, image: EncodedImage | None) -> str:
    faces = asset.surface.faces.numpy()
    vertices = _elements('<vertex x="%.9g" y="%.9g" z="%.9g"/>', placement.points(asset.surface.vertices))
    if image is not None and asset.skin is not None:
        colors = asset.skin.uv_mesh.mesh.faces.numpy()  # coordinates of a face's corners; faces have the same order
        coordinates = _elements('<m:tex2coord u="%.9g" v="%.9g"/>', asset.skin.uv_mesh.uv.numpy())
        resources = (
            f'<m:texture2d id="{TEXTURE_ID}" path="/{TEXTURE}{image.suffix}" contenttype="image/{image.suffix[1:]}" '
            f'tilestyleu="clamp" tilestylev="clamp"/><m:texture2dgroup id="{COLORS_ID}" texid="{TEXTURE_ID}">'
            f"{coordinates}</m:texture2dgroup>"
        )
    else:
        colors = faces
        group = _elements('<m:color color="#%02X%02X%02X"/>', asset.colors)
        resources = f'<m:colorgroup id="{COLORS_ID}">{group}</m:colorgroup>'
    triangle = f'<triangle v1="%d" v2="%d" v3="%d" pid="{COLORS_ID}" p1="%d" p2="%d" p3="%d"/>'
    triangles = _elements(triangle, np.concatenate([faces, colors], axis=1))
    return (
        f'{HEAD}<model unit="millimeter" xml:lang="en-US" xmlns="{CORE}" xmlns:m="{MATERIAL}"><resources>{resources}'
        f'<object id="{OBJECT_ID}" name="{asset.name}" type="model" pid="{COLORS_ID}" pindex="0">'
        f"<mesh><vertices>{vertices}</vertices><triangles>{triangles}</triangles></mesh></object></resources>"
        f'<build><item objectid="{OBJECT_ID}"/></build></model>'
    )


def _elements(template: str, rows: NDArray[Any]) -> str:
    return "".join(template % tuple(row) for row in rows.tolist())
