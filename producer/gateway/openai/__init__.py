"""The Images API of OpenAI, as its clients send and read it, translated to and from the gateway's own."""
