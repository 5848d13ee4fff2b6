"""How far attributions can be trusted: a card of measures, each from a trial with a limit."""
