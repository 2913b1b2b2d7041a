"""From a subject to its points: sizes, values, layouts, cotangents, and the way to a smaller one."""
