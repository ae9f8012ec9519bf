"""A site whose worker is killed and started again behind a chosen call to EC2."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.site import Site
from tests.system.builds import announce_build
from tests.system.deployment import Deployment
from tests.system.proxy import Proxy

#: The parameters of a call to EC2.
Call = Mapping[str, str]


@contextmanager
def killed_behind(
    folder: Path,
    regions: Sequence[str],
    configure: Callable[[Site], Callable[[str], str]],
    strikes: Callable[[Call], bool],
    nth: int,
) -> Iterator[Deployment]:
    """Yield a site in a new folder whose one job is complete, though its worker was killed.

    That happened when EC2 had answered the `nth` call that `strikes`; the worker never had the
    answer. `configure` returns what changes the site's fedimg.toml.
    """
    with Site(folder, regions=regions) as site, Proxy(site.ec2.url) as proxy:
        changed = configure(site)
        site.environment["AWS_ENDPOINT_URL"] = proxy.url
        with site.bus.listen() as heard:
            deployment = Deployment(site, heard, changed)
            struck = threading.Event()
            striking = threading.Lock()

            def strike(action: str) -> bool:
                with striking:
                    due = [call for call in list(proxy.calls) if strikes(call)]
                    if struck.is_set() or len(due) < nth:
                        return False
                    struck.set()
                    deployment.kill("worker")
                    deployment.start_worker()
                return True

            proxy.after = strike
            try:
                deployment.start_worker()
                deployment.start_hub()
                announce_build(deployment)
                (job,) = deployment.ended()
                assert struck.is_set()
                assert (job["state"], job["error"]) == ("complete", None)
                yield deployment
            finally:
                deployment.close()
