"""The participants' side of the iterative mechanisms: pure, statements in, statements out."""
