"""Private images, and what runs made of them, do not pass as public; counts without noise stay private."""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from unit import dp_imgsyn_runs as imgsyn
from unit.private_evolution_runs import EXACT, SIDE, Dots, dataset, fit, model, schema_of

from dpforge.config import build, check, compose
from dpforge.data.image_files import write_samples
from dpforge.data.image_folder import ImageFolder
from dpforge.data.images import Images, ImageSchema
from dpforge.data.overlap import overlaps
from dpforge.data.public_images import load_public_images, refuse_private_as_public
from dpforge.errors import ConfigError, DataError, Interrupted, RunError
from dpforge.experiment.runner import run as run_experiment
from dpforge.generators.dp_imgsyn.generator import DPImgSyn
from dpforge.generators.private_evolution.apis.image_pool import ImagePool
from dpforge.generators.private_evolution.apis.improved_diffusion import ImprovedDiffusion
from dpforge.generators.private_evolution.apis.simulator import Simulator
from dpforge.generators.private_evolution.files import save_population
from dpforge.generators.private_evolution.population import Population
from dpforge.generators.private_evolution.settings import PrivateEvolution
from dpforge.privacy.spec import PrivacySpec

SPEC = PrivacySpec(target_epsilon=None, noise_multiplier=3.0)
POOL = ("model=private_evolution", "model/api=image_pool", "evaluation=images_quick", "logger=csv")
IMGSYN = ("model=dp_imgsyn", "evaluation=images_quick", "logger=csv")
PRIVATE = "private images themselves"


def folder_of_pictures(folder, count=4):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"a_{i}.png")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        (*POOL, "dataset=digits", "model.api.pool=digits"),
        (*POOL, "dataset=digits", "model.api.pool={name: digits, split_seed: 3}"),
        (*POOL, "dataset=digits", "dataset.name=mine", "model.api.pool=digits"),
        (*POOL, "dataset=cifar10", "model.api.pool=cifar10_10k"),
        (*POOL, "dataset=cifar10_10k", "model.api.pool=cifar10"),
        (*IMGSYN, "dataset=digits", "model.public=digits"),
        (*IMGSYN, "dataset=digits", "dataset.name=mine", "model.public=digits"),
        (*IMGSYN, "dataset=cifar10", "model.public=cifar10_10k"),
    ],
    ids=lambda words: " ".join(words[-2:]),
)
def test_the_private_set_named_as_public_is_refused_before_anything_is_read(words):
    with pytest.raises(ConfigError, match=PRIVATE):
        check(words)


def test_another_set_is_public():
    (job,) = check([*POOL, "dataset=mnist", "model.api.pool=fashion_mnist"]).runs
    assert job.plan.epsilon() == pytest.approx(3.0, rel=1e-3)


def test_a_run_started_without_the_check_is_refused_too(tmp_path):
    config = compose([*POOL, "dataset=digits", "dataset.name=mine", "model.api.pool=digits"])
    build(config)
    place = type("Place", (), {"folder": tmp_path / "run"})()
    with pytest.raises(ConfigError, match=PRIVATE):
        run_experiment(config, identity=place)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["same", "inside", "around", "link", "link_inside", "holdout", "npz"])
def test_the_folder_of_the_private_set_is_no_public_one(where, tmp_path):
    private = folder_of_pictures(tmp_path / "all" / "private")
    folder_of_pictures(private / "part")
    holdout = folder_of_pictures(tmp_path / "holdout")
    source = ImageFolder(
        str(private), ["a"], 5, name="mine", image_size=8, holdout_path=str(holdout)
    )  # fmt: skip
    link, linking = tmp_path / "link", folder_of_pictures(tmp_path / "linking")
    link.symlink_to(private)
    (linking / "x_1.png").symlink_to(private / "a_1.png")
    write_samples(private / "x.npz", Images(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64)), ["a"])
    public = {
        "same": private, "inside": private / "part", "around": tmp_path / "all", "link": link,
        "link_inside": linking, "holdout": holdout, "npz": private / "x.npz",
    }[where]  # fmt: skip
    pool = PrivateEvolution(ImagePool(str(public), image_size=(8, 8)))
    start = replace(model(), initial_samples=str(public))
    for mistakes in (
        pool.public_mistakes(source),
        start.public_mistakes(source),
        DPImgSyn(public=str(public)).public_mistakes(source),
    ):
        assert len(mistakes) == 1
        assert PRIVATE in mistakes[0]
    other = folder_of_pictures(tmp_path / "other")
    for public in (str(other), {"path": str(other), "label_from": "none"}):
        refuse_private_as_public(public, source, "model.public")
        refuse_private_as_public(public, replace(source, name="image_folder"), "model.public")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("cifar10", "cifar10_10k", True), ("CIFAR10", "cifar10", True), ("mnist", "emnist", True),
        ("celeba_hair", "celeba_gender", True), ("tiny_imagenet32", "imagenette", True),
        ("mnist", "fashion_mnist", False), ("digits", "font_digits", False), ("cifar10", "cifar100", False),
    ],
)  # fmt: skip
def test_names_tell_parts_and_collections(first, second, said):
    assert overlaps(first, second) == overlaps(second, first) == said


def moved(tmp_path, spec=SPEC):
    """Samples of a private run, copied out of it."""
    fit(model(save_png=True), dataset(schema_of()), tmp_path / "run", spec)
    shutil.copy(tmp_path / "run/samples/3/samples.npz", tmp_path / "copied.npz")
    shutil.copytree(tmp_path / "run/samples/png", tmp_path / "pictures")
    return tmp_path / "copied.npz", tmp_path / "pictures"


@pytest.mark.parametrize(("spec", "status"), [(SPEC, "DP"), (EXACT, "NOT DP")], ids=["dp", "exact"])
def test_images_copied_out_of_a_run_are_not_public(tmp_path, spec, status, monkeypatch):
    npz, pictures = moved(tmp_path, spec)
    with np.load(npz, allow_pickle=False) as content:
        said = json.loads(str(content["origin"][0]))
    assert said["dataset"] == "dots"
    assert said["status"] == status
    assert (said["epsilon"] is None) == (status == "NOT DP")
    for public in (str(npz), str(pictures), {"path": str(pictures), "label_from": "none"}):
        with pytest.raises(ConfigError, match="private set 'dots'"):
            load_public_images(public, size=SIDE)
    assert len(list(pictures.glob("*.png"))) == 60
    settings = model(initial_samples=str(npz))
    with pytest.raises(ConfigError, match=r"model\.initial_samples.*charges what it spent"):
        settings.plan(schema_of(), SPEC)
    run = tmp_path / "outputs/study/first"
    run.parent.mkdir(parents=True)
    shutil.copytree(tmp_path / "run", run)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="run folder outputs/study/first,"):
        settings.plan(schema_of(), SPEC)


@pytest.mark.parametrize("name", ["samples/3/samples.npz", "samples/png", "", "around", "link"])
def test_a_run_folder_holds_no_public_images(tmp_path, name):
    moved(tmp_path / "place")
    run = tmp_path / "place/run"
    shutil.rmtree(tmp_path / "place/pictures")
    (tmp_path / "place/copied.npz").unlink()
    (tmp_path / "link").mkdir()
    (tmp_path / "link/x_1.png").symlink_to(next((run / "samples/png").glob("*.png")))
    public = {"around": tmp_path / "place", "link": tmp_path / "link"}.get(name, run / name)
    with pytest.raises(ConfigError, match="leads into the run folder"):
        load_public_images(str(public), size=SIDE)


def test_images_that_no_run_made_stay_public(tmp_path):
    images = Images(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64))
    write_samples(tmp_path / "x.npz", images, ["a"])
    with np.load(tmp_path / "x.npz") as content:
        assert "origin" not in content.files
    assert len(load_public_images(str(tmp_path / "x.npz"))[0]) == 2


def test_networks_that_private_images_shaped_are_refused(tmp_path):
    fonts = ImageSchema("font_digits_small", 300, SIDE, SIDE, 1, ("a", "b", "c"))
    photos = replace(fonts, name="tiny_imagenet32")
    texts = [
        ({"embedding": "lenet_public"}, fonts, "model.embedding=lenet_public"),
        ({"embedding": "mobilenet_v2"}, photos, "model.embedding=mobilenet_v2"),
        ({"api": ImagePool("mnist", embedding="lenet_public")}, fonts, "model.api.embedding=lenet_public"),
    ]
    for settings, schema, text in texts:
        used = replace(model(), **{**settings, "variation_degree_schedule": "auto"})
        with pytest.raises(ConfigError, match=text):
            used.plan(schema, SPEC)
        used.plan(replace(schema, name="others"), SPEC)


@pytest.mark.parametrize("trained", ["digits", {"name": "digits"}])
def test_a_checkpoint_trained_on_the_private_set_is_refused(tmp_path, trained):
    (tmp_path / "config.json").write_text(json.dumps({"sample_size": SIDE, "in_channels": 1}))
    (tmp_path / "training.json").write_text(json.dumps({"settings": {"dataset": trained}}))
    used = replace(model(), api=ImprovedDiffusion(str(tmp_path)))
    with pytest.raises(ConfigError, match=rf"training\.json.*{PRIVATE}"):
        used.plan(replace(schema_of(), name="digits"), SPEC)
    used.plan(replace(schema_of(), name="others"), SPEC)


@pytest.mark.parametrize("settings", [model(), model(mode="upstream")], ids=["exact", "upstream"])
def test_votes_without_noise_are_private_values_in_private_files(tmp_path, settings):
    logged = []
    spec = EXACT if settings.mode == "dp" else SPEC
    log = {"log": lambda step, values, kind: logged.append((values, kind))}
    fit(settings, dataset(schema_of()), tmp_path, spec, **log)
    assert {kind for values, kind in logged if "evolution/largest_vote" in values} == {"private"}
    assert not list((tmp_path / "samples").rglob("histogram*"))
    kept = sorted((tmp_path / "private/votes").iterdir())
    assert [path.name for path in kept] == ["1.npz", "2.npz", "3.npz"]
    private = [p for p in (tmp_path / "private").rglob("*.npz") if "features" not in p.name]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


def test_clean_votes_are_read_back_on_resume(tmp_path, monkeypatch):
    keep = "dpforge.generators.private_evolution.loop.Evolution._chosen"
    data, settings = dataset(schema_of()), model()
    with monkeypatch.context() as patch:
        patch.setattr(keep, lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(settings, data, tmp_path, EXACT)
    counted = []
    release = "dpforge.generators.private_evolution.loop.Evolution._release"
    from dpforge.generators.private_evolution.loop import Evolution

    original = Evolution._release
    monkeypatch.setattr(release, lambda self, i, c: counted.append(i) or original(self, i, c))
    fit(settings, data, tmp_path, EXACT)
    assert counted == [2, 3]


@pytest.mark.parametrize("kind", ["exact", "upstream"])
def test_losses_of_statistics_without_noise_are_private(tmp_path, kind):
    used = imgsyn.with_parts(statistics={"kind": "upstream"}) if kind == "upstream" else imgsyn.SMALL
    spec = PrivacySpec() if kind == "upstream" else EXACT
    folder = tmp_path / "run"
    made = imgsyn.fit(used, imgsyn.private_data(), folder, spec=spec)
    assert {kind for _, values, kind in made.logged if any("synthesis" in n for n in values)} == {"private"}
    assert not (folder / "samples/synthesis.csv").exists()
    assert stat.S_IMODE((folder / "private/synthesis.csv").stat().st_mode) == 0o600


@pytest.mark.parametrize("part", ["pixels", "labels", "index"])
def test_a_run_of_dp_imgsyn_does_not_continue_with_other_public_images(tmp_path, monkeypatch, part):
    first = imgsyn.with_parts(public_selection="random")
    calls = []
    with pytest.raises(Interrupted):
        imgsyn.fit(first, imgsyn.private_data(), tmp_path, stopping=lambda: calls.append(1) or len(calls) > 3)
    if part == "index":
        np.savetxt(tmp_path / "order.txt", np.arange(30)[::-1], fmt="%d")
        first = dataclasses.replace(first, public_index_file=str(tmp_path / "order.txt"))
    else:
        load = imgsyn.PublicNoise.load

        def other(self):
            data = load(self)
            changed = {name: getattr(data.train, name).copy() for name in ("pixels", "labels")}
            changed[part].flat[0] = (changed[part].flat[0] + 1) % 3
            return dataclasses.replace(data, train=Images(**changed))

        monkeypatch.setattr(imgsyn.PublicNoise, "load", other)
    with pytest.raises(RunError, match="other public images than there are now"):
        imgsyn.fit(first, imgsyn.private_data(), tmp_path)
    monkeypatch.undo()
    if part != "index":
        imgsyn.fit(first, imgsyn.private_data(), tmp_path)


def start_file(path, names, info=None):
    places = np.repeat([1, 5, 9], 20)
    start = Population(Dots().draw(places), np.repeat(np.arange(3), 20), places if info is None else info)
    save_population(path, start, names)
    return model(initial_samples=str(path), num_iterations=1)


def test_a_public_start_matches_classes_by_name(tmp_path):
    settings = start_file(tmp_path / "x.npz", ("c", "a", "b"))
    fit(settings, dataset(schema_of()), tmp_path / "run")
    with np.load(tmp_path / "run/samples/0/samples.npz") as made:
        assert made["class_names"].tolist() == ["a", "b", "c"]
        assert made["additional_info"].tolist() == np.repeat([5, 9, 1], 20).tolist()
    settings = start_file(tmp_path / "y.npz", ("a", "b", "d"))
    with pytest.raises(DataError, match="has no class c; its classes are a, b, d"):
        fit(settings, dataset(schema_of()), tmp_path / "other")


def test_a_start_without_classes_takes_every_image(tmp_path):
    settings = replace(start_file(tmp_path / "x.npz", ("u", "v", "w")), conditional=False)
    fitted = fit(settings, dataset(schema_of()), tmp_path / "run")
    assert len(fitted.population) == 60


def test_a_start_that_this_generator_cannot_vary_is_named(tmp_path, monkeypatch):
    images = Images(Dots().draw(np.arange(60) % 16), np.repeat(np.arange(3), 20))
    write_samples(tmp_path / "plain.npz", images, ("a", "b", "c"))
    with pytest.raises(DataError, match="has no array additional_info"):
        fit(model(initial_samples=str(tmp_path / "plain.npz")), dataset(schema_of()), tmp_path / "run")
    monkeypatch.setattr("dpforge.data.public_images.load_public_images", lambda *a, **k: (images, ("x",)))
    pool = {"api": ImagePool("mnist", image_size=(SIDE, SIDE)), "variation_degree_schedule": 2}
    for number, info in enumerate((np.full(60, 99), np.full(60, -1), np.array(["a photo"] * 60))):
        settings = replace(start_file(tmp_path / "x.npz", ("a", "b", "c"), info), **pool)
        with pytest.raises(DataError, match=r"additional_info.*image_pool"):
            fit(settings, dataset(schema_of()), tmp_path / f"pool{number}")
    simulated = {"api": Simulator(system_fonts=False, texts=["a", "b", "c"], image_size=(SIDE, SIDE))}
    settings = replace(start_file(tmp_path / "x.npz", ("a", "b", "c")), **simulated)
    with pytest.raises(DataError, match="additional_info is of another generator"):
        fit(settings, dataset(schema_of()), tmp_path / "simulated")
