"""lab: namespaces, bridges, the programs under test inside them, and the verdict."""
