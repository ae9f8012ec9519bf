"""Write the whole catalogue into a directory, and again when the record has changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from fedimg.catalogue import documents, record, statements
from fedimg.catalogue.documents import (
    Images,
    ImageState,
    ImageSummary,
    LatestAMIs,
    Publication,
    PublicKey,
    PublicKeys,
    ReleaseSummary,
)
from fedimg.catalogue.feed import FeedEntry, feed
from fedimg.catalogue.files import Directory
from fedimg.catalogue.latest import LatestFinder, newest_first
from fedimg.images import RawImage
from fedimg.store.catalogue_keys import CatalogueKeys
from fedimg.store.publications import Publications, PublishedJob, Withdrawn
from fedimg.store.rows import AMIRow, BootTestRow
from fedimg.store.store import Store
from fedimg.untrusted.quoting import one_line

#: The directory of publications for each kind of source.
_KINDS = {"build": "builds", "compose": "composes", "task": "tasks", "url": "uploads"}
#: A release's name has no hyphen (fedimg.editions), so that this is the name of none.
_NO_RELEASE = "no-release"
#: The page by which people find an AMI, in fedimg/catalogue/page.
PAGES = ("index.html", "catalogue.css", "catalogue.js")
#: The kinds of sources whose images may be the newest, unless the site says otherwise.
LATEST = ("build", "compose")
#: How many images are read at once; each has over a hundred AMIs.
_JOBS_AT_ONCE = 50


@dataclass(frozen=True)
class Written:
    """The number of files that were written, and of the images and AMIs that all files tell of."""

    files: int
    images: int
    amis: int

    def __str__(self) -> str:
        return f"{_count(self.images, 'image')} and {_count(self.amis, 'AMI')}"


class CatalogueWriter:
    """Writes a site's catalogue into a directory.

    Args:
        store: the record.
        root: the directory, which is made if it is missing.
        site: the site's name, for the feed.
        base_url: the URL at which the directory is served, or "".
        latest: the kinds of sources whose images may be the newest.
    """

    def __init__(
        self,
        store: Store,
        root: Path,
        *,
        site: str,
        base_url: str,
        latest: Collection[str] = LATEST,
    ) -> None:
        self.root = root
        self._store = store
        self._site = site
        self._base_url = f"{base_url}/" if base_url else ""
        self._latest = latest

    def changed(self) -> tuple[object, ...]:
        """Return values that differ from those of before when the catalogue would be another."""
        publications = Publications(self._store)
        publications.assign(publication_name)
        return publications.changed()

    def write(self, signer: CryptoSigner | None = None) -> Written:
        """Write the catalogue; files that are as they should be stay untouched.

        With a `signer`, each publication gets its statement where it has none yet.
        Raises CatalogueError when the directory cannot be written, StoreError for the database.
        """
        directory = Directory(self.root)
        with directory.locked():
            return _Writing(
                self._store, directory, self._site, self._base_url, self._latest, signer
            ).write()


class _Writing:
    """One writing of the catalogue; the AMIs of some sources are in memory at once."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        site: str,
        base_url: str,
        latest: Collection[str],
        signer: CryptoSigner | None,
    ) -> None:
        self._publications = Publications(store)
        self._keys = CatalogueKeys(store)
        self._signer = signer
        self._directory = directory
        self._site = site
        self._base_url = base_url
        self._files = 0
        self._amis = 0
        self._finder = LatestFinder(latest)
        self._withdrawn = self._publications.withdrawn()
        self._entries: list[FeedEntry] = []

    def write(self) -> Written:
        """Write everything; the lists come last, so that each file that they name exists."""
        self._publications.assign(publication_name)
        # Before the first statement: a key that signed is published whatever happens.
        self._write_keys()
        by_release = _by_release(self._publications.jobs())
        summaries = [
            self._write_release(release, by_release[release])
            for release in sorted(by_release, key=newest_first)
        ]
        self._replace("latest.json", documents.as_json(LatestAMIs(self._finder.latest())))
        self._replace("images.json", documents.as_json(Images(summaries)))
        self._replace("feed.atom", feed(self._site, self._base_url, self._entries))
        for page in PAGES:
            content = resources.files("fedimg.catalogue").joinpath("page", page).read_bytes()
            self._replace(page, content)
        for name, document in documents.SCHEMAS.items():
            schema = json.dumps(documents.schema(document), indent=1) + "\n"
            self._replace(f"schemas/{name}.json", schema.encode())
        images = sum(map(len, by_release.values()))
        return Written(self._files, images, self._amis)

    def _write_release(self, release: str | None, jobs: Sequence[PublishedJob]) -> ReleaseSummary:
        file = f"releases/{release or _NO_RELEASE}.json"
        summaries: list[ImageSummary] = []
        images = self._images(jobs, file, summaries)
        self._files += self._directory.replace(file, documents.release_parts(release, images))
        return ReleaseSummary(release, file, summaries)

    def _images(
        self, jobs: Sequence[PublishedJob], file: str, summaries: list[ImageSummary]
    ) -> Iterator[ImageState]:
        """Yield a release's images, the newest first, and note what the lists of all tell of them.

        The publications of each source are written before its images are yielded.
        """
        for some in _batches(jobs):
            ids = [job.job for job in some]
            amis, checks = self._publications.amis(ids), self._publications.boot_checks(ids)
            self._write_publications(some, amis, checks)
            for job in some:
                rows = amis[job.job]
                self._amis += len(rows)
                self._finder.add(job, rows)
                if withdrawn := self._withdrawn.get(job.job):
                    self._entries.append(_withdrawn(job, withdrawn, file))
                summaries.append(record.summary(job, rows))
                yield record.image_state(job, checks[job.job], rows)

    def _write_publications(
        self,
        jobs: Sequence[PublishedJob],
        amis: Mapping[str, Sequence[AMIRow]],
        checks: Mapping[str, Sequence[BootTestRow]],
    ) -> None:
        """Write the files that never change and are not there yet."""
        published: dict[str, _Published] = {}
        for job in jobs:
            for row in amis[job.job]:
                if row.publication:
                    published.setdefault(row.publication, _Published(row.publication)).add(job, row)
        for name, content in sorted(published.items()):
            self._entries.append(content.entry())
            signed = name.removesuffix(".json") + statements.SUFFIX
            unsigned = (
                self._signer is not None and content.has_disk and not self._directory.exists(signed)
            )
            if self._directory.exists(name) and not unsigned:
                continue
            document = Publication(
                source=content.source,
                published=documents.time(content.at),
                images=[
                    record.published_image(
                        job,
                        checks[job.job],
                        [row for row in amis[job.job] if row.publication == name],
                    )
                    for job in sorted(content.jobs, key=lambda job: job.job)
                ],
            )
            if not self._directory.exists(name):
                self._files += self._directory.create(name, documents.as_json(document))
            statement = statements.statement(document)
            if self._signer is not None and unsigned and statement:
                line = statements.signed(statement, self._signer)
                self._files += self._directory.create(signed, line)

    def _write_keys(self) -> None:
        if self._signer is not None:
            public = statements.public_key(self._signer)
            self._keys.record(self._signer.public_key.keyid, public)
        keys = [
            PublicKey(key.keyid, key.public, documents.time(key.since)) for key in self._keys.all()
        ]
        if keys:
            self._replace("keys.json", documents.as_json(PublicKeys(keys)))

    def _replace(self, name: str, content: bytes) -> None:
        self._files += self._directory.replace(name, [content])


@dataclass
class _Published:
    """The subject of a file that never changes; `at` is when its last AMI became public."""

    file: str
    source: str = ""
    at: float | None = None
    jobs: set[PublishedJob] = field(default_factory=set)
    regions: set[str] = field(default_factory=set)
    amis: int = 0

    def add(self, job: PublishedJob, row: AMIRow) -> None:
        """Add an AMI of the file."""
        self.source = job.image.source
        self.jobs.add(job)
        self.regions.add(row.region)
        self.amis += 1
        if row.published_at is not None:
            self.at = max(self.at or 0.0, row.published_at)

    @property
    def has_disk(self) -> bool:
        """Return whether a statement can be made: the disk of one of the images is known."""
        return any(job.disk_sha256 for job in self.jobs)

    def entry(self) -> FeedEntry:
        """Return the file's entry in the feed."""
        images = ", ".join(sorted(job.image.name for job in self.jobs))
        return FeedEntry(
            key=self.file,
            title=f"Published: {images}",
            text=f"{_count(self.amis, 'AMI')} in {_count(len(self.regions), 'region')}",
            at=self.at or 0.0,
            link=self.file,
        )


def publication_name(image: RawImage, number: int) -> str:
    """Return the name of the file with the publication of an image's source; `number` counts from
    1.
    """
    kind, _, id = image.source.partition("-")
    label = {"build": image.build, "url": f"{image.build}-{id}"}.get(kind, id)
    return f"{_KINDS[kind]}/{label}{f'-{number}' if number > 1 else ''}.json"


def _by_release(jobs: Sequence[PublishedJob]) -> dict[str | None, list[PublishedJob]]:
    """Return the jobs by release; a source's jobs stay together, as they share a file."""
    releases = {
        job.image.source: found.release for job in jobs if (found := record.edition_of(job))
    }
    by_release: dict[str | None, list[PublishedJob]] = {}
    for job in jobs:
        by_release.setdefault(releases.get(job.image.source), []).append(job)
    return by_release


def _batches(jobs: Sequence[PublishedJob]) -> Iterator[list[PublishedJob]]:
    """Yield the jobs of a release, the newest first: some sources at a time, each as a whole."""
    by_source: dict[str, list[PublishedJob]] = {}
    for job in jobs:
        by_source.setdefault(job.image.source, []).append(job)
    batch: list[PublishedJob] = []
    for source in sorted(by_source, key=lambda each: _order(by_source[each]), reverse=True):
        batch += sorted(by_source[source], key=lambda job: job.job)
        if len(batch) >= _JOBS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _order(jobs: Sequence[PublishedJob]) -> tuple[bool, tuple[int, ...], float, str]:
    """Return a key by which sources are sorted: what has no edition goes by its publication."""
    orders = [found.order for job in jobs if (found := record.edition_of(job))]
    first = min(job.published or 0.0 for job in jobs)
    return bool(orders), max(orders, default=()), first, jobs[0].image.source


def _withdrawn(job: PublishedJob, withdrawn: Withdrawn, file: str) -> FeedEntry:
    instead = f"; use {withdrawn.replacement} instead" if withdrawn.replacement else ""
    return FeedEntry(
        key=f"withdrawn:{job.job}:{documents.time(withdrawn.at)}",
        title=f"Withdrawn: {job.image.name}",
        text=one_line(f"{withdrawn.reason}{instead}"),
        at=withdrawn.at,
        link=file,
    )


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
