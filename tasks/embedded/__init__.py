"""Data sets that need no download: real ones that come with scikit-learn and Python, and generated ones.

    sklearn_sets         measurements, digits and photos that scikit-learn brings
    text                 source and English documentation of the running Python
    generated_images     gratings, shapes, textures
    generated_sequences  copying over a delay, nested brackets
    generated_tabular    teachers, clusters, Friedman's function
    splits               what is held out

Each set is a function without arguments that returns {split: {field: array}}, and its docstring says where the data
come from, and what there is to be learned. Equal arrays at every call; on other machines too, but for the last bit of
some floats, for the photos if Pillow decodes JPEG otherwise, and for the text, which is that of the Python that runs.
"""

from collections.abc import Callable, Mapping

from tasks.embedded import generated_images, generated_sequences, generated_tabular, sklearn_sets, text
from tasks.embedded.sklearn_sets import digits
from tasks.embedded.splits import Splits, split_rows

__all__ = ["EMBEDDED", "Splits", "digits", "split_rows"]

EMBEDDED: Mapping[str, Callable[[], Splits]] = {
    "sklearn_digits": digits,
    "sklearn_wine": sklearn_sets.wine,
    "sklearn_iris": sklearn_sets.iris,
    "sklearn_breast_cancer": sklearn_sets.breast_cancer,
    "sklearn_diabetes": sklearn_sets.diabetes,
    "sklearn_photos": sklearn_sets.photos,
    "sklearn_china_pixels": sklearn_sets.china_pixels,
    "sklearn_flower_pixels": sklearn_sets.flower_pixels,
    "python_source": text.python_source,
    "python_topics": text.python_topics,
    "gratings": generated_images.gratings,
    "shapes": generated_images.shapes,
    "zipf_textures": generated_images.zipf_textures,
    "delayed_copy": generated_sequences.delayed_copy,
    "brackets": generated_sequences.brackets,
    "teacher_regression": generated_tabular.teacher_regression,
    "teacher_classification": generated_tabular.teacher_classification,
    "friedman": generated_tabular.friedman,
    "zipf_clusters": generated_tabular.zipf_clusters,
    "rare_clusters": generated_tabular.rare_clusters,
}
"""{name: what makes its splits} of the sets that `tasks.data.load` prepares by itself."""
