"""What a finished experiment found of a hardened model, put beside that model: in its card and a folder `reproduce`.

figures.py       the rates of the model before and after each attack, beside those of the model that was not hardened
finding.py       which model of an experiment it is, and what of the experiment is not done
section.py       the section of the model card
metadata.py      its front matter: the results in Hugging Face's form
reproduction.py  the recipe, pinned packages, hashes and commands
documenting.py   document: where the above meet
"""

from safelox.publication.documenting import Documented, document
from safelox.publication.figures import Figure, Row, Side
from safelox.publication.reproduction import Hashes

__all__ = ["Documented", "Figure", "Hashes", "Row", "Side", "document"]
