"""Lists of images and of classes: text and CSV, blanks in names, and the refusals by line."""

import pytest
from data_fixtures import read, refused, touch

from alexnet_jax.data import sources


def test_folder_with_an_order_of_classes(tmp_path):
    touch(tmp_path, "train/n3/1.jpg", "train/n1/2.jpg", "train/n2/3.jpg", "val/n1/4.jpg")
    text = "\ufeff# as in ILSVRC2010_ID\r\nn2  tench, Tinca tinca\r\n\r\n  n3\r\nn1\tgoldfish\r\n"
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8", newline="")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("n2", "n3", "n1")
    assert list(read(source.splits["train"]).items()) == [
        ("train/n2/3.jpg", 0),
        ("train/n3/1.jpg", 1),
        ("train/n1/2.jpg", 2),
    ]
    assert read(source.splits["validation"]) == {"val/n1/4.jpg": 2}
    for text, error in (
        ("n1\nn2\n", r"train has classes that .*classes\.txt lacks: n3$"),
        ("n1\nn2\nn3\nn4\n", r"classes\.txt names classes without a folder in .*train: n4$"),
        ("n1\n\nn2\nn1\n", r"classes\.txt:4: class n1 is listed twice"),
    ):
        (tmp_path / "classes.txt").write_text(text)
        refused(tmp_path, error)
    (tmp_path / "classes.txt").write_bytes(b"n1\nn\xe4\n")
    refused(tmp_path, r"classes\.txt is not UTF-8")


def test_flat_folders_need_a_list(tmp_path):
    """ILSVRC-2010's form: training by class, validation and test flat."""
    touch(tmp_path, "train/n2/1.JPEG", "train/n1/2.JPEG", "val/a b.JPEG", "val/c.JPEG", "x/d.JPEG")
    refused(tmp_path, r"val has images, but not in class folders: list them .*val\.txt")
    (tmp_path / "val.txt").write_text("./c.JPEG 1\n\na b.JPEG\tn1\n")
    (tmp_path / "test.txt").write_text("x/d.JPEG 0\n")  # there is no folder `test`
    source = sources.open_source(f"folder:{tmp_path}")
    assert list(read(source.splits["validation"]).items()) == [
        ("val/c.JPEG", 1),
        ("val/a b.JPEG", 0),
    ]
    assert source.splits["test"][0] == ("x/d.JPEG", 0, b"x/d.JPEG")
    (tmp_path / "classes.txt").write_text("n2\nn1\n")
    assert read(sources.open_source(f"folder:{tmp_path}").splits["validation"]) == {
        "val/c.JPEG": 1,
        "val/a b.JPEG": 1,
    }
    (tmp_path / "validation.txt").write_text("")
    refused(tmp_path, "both val and validation")


def test_a_training_list_names_the_classes(tmp_path):
    touch(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "train.txt").write_text("1.png dog\n2.png cat\n3.png 3\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("3", "cat", "dog")
    assert read(source.splits["train"]) == {"1.png": 2, "2.png": 1, "3.png": 0}
    (tmp_path / "train.txt").write_text("1.png 1\n2.png 0\n3.png 1\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("0", "1")
    assert read(source.splits["train"]) == {"1.png": 1, "2.png": 0, "3.png": 1}
    (tmp_path / "train.txt").write_text("1.png 1\n2.png 2\n3.png 3\n")
    refused(tmp_path, r"no image has label 0, but labels go up to 3: they count from 0")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert sources.open_source(f"folder:{tmp_path}").class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("1.png", r"expected 'relative/path label', found '1\.png'"),
        ("1.png 3", r"label 3: expected 0 to 2 \(labels count from 0\) or the name .*train"),
        ("1.png -1", "label -1: expected 0 to 2"),
        ("1.png emu", r"label emu: expected 0 to 2"),
        ("1.png 1", "1 is the number of one class and the name of another"),
        ("0.png 0", r"0\.png is listed twice"),
        ("./0.png 0", r"\./0\.png is listed twice"),
        ("2.png 0", r"there is no .*/val/2\.png"),
        ("../train/1/1.png 0", r"\.\./train/1/1\.png leads out of .*/val"),
        ("/etc/passwd 0", "/etc/passwd leads out of"),
    ],
)
def test_lists_are_refused_by_line(tmp_path, line, error):
    touch(tmp_path, "train/1/1.png", "train/2/2.png", "train/10/3.png", "val/0.png", "val/1.png")
    (tmp_path / "val.txt").write_text(f"0.png 0\n\n{line}\n")
    refused(tmp_path, rf"val\.txt:3: {error}")


def test_labels_with_blanks(tmp_path):
    """The path ends where there is such a file, or at a tab."""
    touch(tmp_path, "train/golden retriever/1.jpg", "train/cat/2.jpg")
    touch(tmp_path, "val/a b.jpg", "val/3.jpg", "val/4.jpg", "val/golden.jpg")
    lines = "3.jpg golden retriever\na b.jpg  golden retriever \n4.jpg\tgolden retriever\t7 8\n"
    (tmp_path / "val.txt").write_text(lines + "golden.jpg cat\n")
    (tmp_path / "classes.txt").write_text("# in this order\ngolden retriever (a dog)\ncat a cat\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("golden retriever", "cat")
    assert read(source.splits["validation"]) == {
        "val/3.jpg": 0, "val/a b.jpg": 0, "val/4.jpg": 0, "val/golden.jpg": 1
    }  # fmt: skip
    (tmp_path / "classes.txt").write_text("golden retriever\tdog\ncat\n")
    assert sources.open_source(f"folder:{tmp_path}").class_names == ("golden retriever", "cat")
    (tmp_path / "val.txt").write_text("5.jpg golden retriever\n")
    refused(tmp_path, r"val\.txt:1: label retriever: expected 0 to 1")


def test_a_training_list_with_blanks_in_labels(tmp_path):
    touch(tmp_path, "x/1.jpg", "x/2.jpg")
    (tmp_path / "train.txt").write_text("x/1.jpg golden retriever\nx/2.jpg cat\n")
    assert sources.open_source(f"folder:{tmp_path}").class_names == ("cat", "golden retriever")
    (tmp_path / "classes.txt").write_text("golden retriever\ncat\n")
    assert sources.open_source(f"folder:{tmp_path}").class_names == ("golden retriever", "cat")


@pytest.mark.parametrize(
    "text",
    [
        '"a,b.jpg";"golden; retriever"\n2;cat\n',
        '"a,b.jpg","golden; retriever"\n"2.png","cat"\n',
        '"a,b.jpg","golden; retriever"\r\n\r\n2.png,cat,more\r\n',
        'file,label\n"a,b.jpg",golden; retriever\n2.png,cat\n',
        '\ufeff"Image ID","Class"\n"a,b",golden; retriever\n2,cat\n',
        'label,width,file_name\ngolden; retriever,7,"a,b.jpg"\ncat,9, 2.png\n',
        'x,breed\n"a,b.jpg",golden; retriever\n2.png,cat\n',
        "image\tspecies\na,b.jpg\tgolden; retriever\n2\tcat\n",
        'species;image\n"golden; retriever";a,b.jpg\ncat;2\n',
    ],
)
@pytest.mark.parametrize("folder", ["val/", "val/images/", "", "images/"])
def test_a_list_as_csv(tmp_path, text, folder):
    """Any delimiter, quoted or not, with a header or none, with suffixes or none."""
    touch(tmp_path, "train/golden; retriever/1.jpg", "train/cat/2.jpg")
    touch(tmp_path, f"{folder}a,b.jpg", f"{folder}2.png")
    (tmp_path / "val.csv").write_text(text, newline="")
    source = sources.open_source(f"folder:{tmp_path}")
    assert list(read(source.splits["validation"]).items()) == [
        (f"{folder}a,b.jpg", 1), (f"{folder}2.png", 0)
    ]  # fmt: skip


def test_what_looks_like_a_header_and_is_none(tmp_path):
    """A class may be called as columns are: the image in the line is there."""
    touch(tmp_path, "train/picture/1.png", "train/label/2.png", "val/3.png", "val/name")
    (tmp_path / "val.csv").write_text("3.png,picture\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert read(source.splits["validation"]) == {"val/3.png": 1}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("0.png,3\n", "1: label 3: expected 0 to 1"),
        ("file,label\n0.png,emu\n", "2: label emu: expected 0 to 1"),
        ("file,label\n0.png,0\n\n9.png,0\n", "4: there is no .*/val/9.png"),
        ("datei,klasse\n0.png,0\n", "1: label klasse: expected"),
        ("file,label\n0.png\n", "2: expected a file and a label, found '0.png'"),
        ("file,label\n0.png,0\n0,0\n", "3: 0 is listed twice"),
        ("file,label\n../0.png,0\n", "2: ../0.png leads out of"),
        ("file,label\n1,0\n", "2: there is no .*/val/1"),  # there are two of that name
        ('file,label\n"0.png,0\n', "2: expected a file and a label"),
        ("file,label\n" + "x" * 200_000, " cannot be read as CSV"),
    ],
)
def test_csv_files_are_refused_by_line(tmp_path, text, error):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "val/0.png", "val/1.png", "val/1.jpg")
    (tmp_path / "val.csv").write_text(text)
    refused(tmp_path, rf"val\.csv:?{error}")
    (tmp_path / "val.csv").write_bytes(b"0.png,\xe4\n")
    refused(tmp_path, r"val\.csv is not UTF-8")


def test_a_csv_file_counts_where_there_are_no_class_folders(tmp_path):
    """What else a dataset brings, train.csv say, does not turn it into a list."""
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png")
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text("file,width,height\na/1.png,40,30\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert read(source.splits["validation"]) == {"val/a/3.png": 0}
    touch(tmp_path, "test/4.png", "test/5.png")
    (tmp_path / "test.csv").write_text("id,label\n4,b\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert read(source.splits["test"]) == {"test/4.png": 1}
    assert source.left_out == {"not in test.csv": 1}
    (tmp_path / "test.txt").write_text("5.png 0\n")
    assert read(sources.open_source(f"folder:{tmp_path}").splits["test"]) == {"test/5.png": 0}
