"""From what people download, or draw, to the working layout: a file a source, all writing through `run`."""
