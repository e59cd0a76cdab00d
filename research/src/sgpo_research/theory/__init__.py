"""The paper's claims, checked on a finite game that is solved to optimality."""
