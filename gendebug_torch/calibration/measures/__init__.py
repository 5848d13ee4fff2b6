"""How far confidence strays from accuracy, with intervals."""
