"""catalogue: what writing the files of a large record costs, in time and memory."""

import os
import tempfile
from pathlib import Path

from bench import many_amis
from bench.command import measured
from bench.results import Result
from bench.site_process import regions as regions_of
from fedimg.store.store import Store

_IMAGES, _REGIONS = 1000, 34
#: The budget: 136,000 AMIs within so many seconds, on a machine that does nothing else.
_SECONDS = 10.0


def run(tiny: bool) -> Result:
    """Write the catalogue of 1,000 images of four types in 34 regions, and once more unchanged."""
    images, regions = (3, 2) if tiny else (_IMAGES, _REGIONS)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        store = Store(folder / "state")
        many_amis.record(store, images, regions_of(regions))
        store.close()
        config = folder / "fedimg.toml"
        config.write_text(f'site = "{many_amis.SITE}"\nstate_directory = "state"\n')
        environment = {**os.environ, "FEDIMG_CONFIG": str(config)}
        command = ["catalogue", "--out", str(folder / "catalogue"), "--json"]
        first = measured(command, environment)
        again = measured(command, environment)
        size = sum(path.stat().st_size for path in (folder / "catalogue").rglob("*.json"))
    amis = images * regions * len(many_amis.TYPES)
    if first.answer["amis"] != amis or again.answer["files"]:
        raise RuntimeError(f"the catalogue has {first.answer}, and then {again.answer}")
    figures = {
        "amis": amis,
        "cpu_seconds": first.cpu,
        "wall_seconds": first.wall,
        "unchanged_cpu_seconds": again.cpu,
        "peak_mib": first.peak_mib,
        "size_mib": size / 2**20,
    }
    return Result("catalogue", figures, {"wall_seconds": _SECONDS})
