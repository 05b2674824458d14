raise RuntimeError("paintbox is out of paint")
