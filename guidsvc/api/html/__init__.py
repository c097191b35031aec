"""Pages for people who open the API in a browser: pure functions that render the data of a response as HTML."""
