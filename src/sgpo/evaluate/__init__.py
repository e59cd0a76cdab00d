"""From a trained policy to numbers: win rates and ranking accuracy with their intervals."""
