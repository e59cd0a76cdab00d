"""The paper's claims about the game, where they mean something: a finite game that is solved to optimality."""
