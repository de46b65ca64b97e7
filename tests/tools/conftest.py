from tests.tools.command_line import call, score_command

__all__ = ["call", "score_command"]
