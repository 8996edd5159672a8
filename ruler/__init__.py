"""RULER (arXiv 2404.06654): thirteen synthetic long-context tasks, generators and official metrics. Never imports
torch.
"""

from ruler.errors import RulerError

__all__ = ["RulerError"]
